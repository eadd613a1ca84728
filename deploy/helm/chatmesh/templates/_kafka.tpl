{{/* How a principal reaches the brokers. Strimzi's operator makes a secret per KafkaUser, of its name, and one with the cluster's CA. */}}

{{- define "chatmesh.strimzi.cluster" -}}
{{- .Values.kafka.strimzi.cluster | default (include "chatmesh.fullname" .) -}}
{{- end -}}

{{/* {root, principal} */}}
{{- define "chatmesh.kafka.user" -}}
{{- printf "%s-%s" (include "chatmesh.fullname" .root) .principal -}}
{{- end -}}

{{/* {root, principal}, as YAML: bootstrapServers, securityProtocol, mechanism, username, passwordSecret, passwordKey, caSecret, caKey, certificateSecret, checkHostname. */}}
{{- define "chatmesh.kafka.access" -}}
{{- $kafka := .root.Values.kafka -}}
{{- if eq $kafka.mode "strimzi" }}
bootstrapServers: {{ printf "%s-kafka-bootstrap:9093" (include "chatmesh.strimzi.cluster" .root) }}
securityProtocol: SASL_SSL
mechanism: SCRAM-SHA-512
username: {{ include "chatmesh.kafka.user" . }}
passwordSecret: {{ include "chatmesh.kafka.user" . }}
passwordKey: password
caSecret: {{ printf "%s-cluster-ca-cert" (include "chatmesh.strimzi.cluster" .root) }}
caKey: ca.crt
checkHostname: true
{{- else }}
{{- $external := $kafka.external }}
{{- $own := index $external.principals .principal }}
{{- $sasl := hasPrefix "SASL_" $external.securityProtocol }}
{{- $tls := hasSuffix "SSL" $external.securityProtocol }}
{{- $wants := printf "kafka.external.principals.%s.secretName" .principal }}
{{- $unused := printf "is set, but securityProtocol %s uses none: it was meant to protect something" $external.securityProtocol }}
{{- if and $external.ca.secretName (not $tls) }}
{{- fail (printf "kafka.external.ca.secretName %s" $unused) }}
{{- end }}
{{- if and $external.clientCertificates (or $sasl (not $tls)) }}
{{- fail (printf "kafka.external.clientCertificates %s" $unused) }}
{{- end }}
{{- if and $own.secretName (not $sasl) (not $external.clientCertificates) }}
{{- fail (printf "%s %s (SSL does with clientCertificates)" $wants $unused) }}
{{- end }}
bootstrapServers: {{ required "kafka.external.bootstrapServers is needed, as host:port[,host:port]; or kafka.mode strimzi" $external.bootstrapServers | nospace | splitList "," | compact | join "," | quote }}
securityProtocol: {{ $external.securityProtocol }}
checkHostname: {{ $external.checkHostname }}
{{- if $sasl }}
mechanism: {{ $external.saslMechanism }}
username: {{ $own.username | default .principal | quote }}
passwordSecret: {{ required (printf "%s is needed with %s: a secret that holds the password" $wants $external.securityProtocol) $own.secretName | quote }}
passwordKey: {{ $own.passwordKey | quote }}
{{- end }}
{{- if $tls }}
{{- with $external.ca.secretName }}
caSecret: {{ . | quote }}
caKey: {{ $external.ca.key | quote }}
{{- end }}
{{- if $external.clientCertificates }}
certificateSecret: {{ required (printf "%s is needed with clientCertificates: a secret with tls.crt and tls.key" $wants) $own.secretName | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* {root, principal}: not empty where secrets are needed to come in. */}}
{{- define "chatmesh.kafka.secrets" -}}
{{- $access := include "chatmesh.kafka.access" . | fromYaml -}}
{{- $access.passwordSecret | default $access.caSecret | default $access.certificateSecret | default "" -}}
{{- end -}}

{{/* {root, principal}: environment of whoever speaks to the brokers. */}}
{{- define "chatmesh.kafka.env" -}}
{{- $access := include "chatmesh.kafka.access" . | fromYaml -}}
- {name: KAFKA_BOOTSTRAP_SERVERS, value: {{ $access.bootstrapServers | quote }}}
- {name: KAFKA_SECURITY_PROTOCOL, value: {{ $access.securityProtocol }}}
{{- if $access.passwordSecret }}
- {name: KAFKA_SASL_MECHANISM, value: {{ $access.mechanism }}}
- {name: KAFKA_SASL_USERNAME, value: {{ $access.username | quote }}}
- {name: KAFKA_SASL_PASSWORD_FILE, value: /etc/chatmesh/kafka/password}
{{- end }}
{{- if $access.caSecret }}
- {name: KAFKA_SSL_CAFILE, value: /etc/chatmesh/kafka-ca/ca.crt}
{{- end }}
{{- if $access.certificateSecret }}
- {name: KAFKA_SSL_CERTFILE, value: /etc/chatmesh/kafka/tls.crt}
- {name: KAFKA_SSL_KEYFILE, value: /etc/chatmesh/kafka/tls.key}
{{- end }}
{{- if hasSuffix "SSL" $access.securityProtocol }}
- {name: KAFKA_SSL_CHECK_HOSTNAME, value: {{ $access.checkHostname | quote }}}
{{- end }}
- {name: CHATMESH_NAMESPACE, value: {{ .root.Values.kafka.namespace | quote }}}
- {name: CHATMESH_PARTITIONS, value: {{ .root.Values.kafka.partitions | quote }}}
- {name: CHATMESH_REPLICATION_FACTOR, value: {{ .root.Values.kafka.replicationFactor | quote }}}
- {name: CHATMESH_MIN_INSYNC_REPLICAS, value: {{ .root.Values.kafka.minInsyncReplicas | quote }}}
- {name: CHATMESH_START_TIMEOUT_S, value: {{ .root.Values.startTimeoutS | quote }}}
{{- end -}}

{{- define "chatmesh.kafka.mounts" -}}
{{- $access := include "chatmesh.kafka.access" . | fromYaml -}}
{{- if or $access.passwordSecret $access.certificateSecret }}
- {name: kafka, mountPath: /etc/chatmesh/kafka, readOnly: true}
{{- end }}
{{- if $access.caSecret }}
- {name: kafka-ca, mountPath: /etc/chatmesh/kafka-ca, readOnly: true}
{{- end }}
{{- end -}}

{{/* Group-readable: the files belong to root, the process to fsGroup. */}}
{{- define "chatmesh.kafka.volumes" -}}
{{- $access := include "chatmesh.kafka.access" . | fromYaml -}}
{{- if $access.passwordSecret }}
- name: kafka
  secret:
    secretName: {{ $access.passwordSecret | quote }}
    defaultMode: 0440
    items: [{key: {{ $access.passwordKey | quote }}, path: password}]
{{- else if $access.certificateSecret }}
- name: kafka
  secret:
    secretName: {{ $access.certificateSecret | quote }}
    defaultMode: 0440
    items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
{{- end }}
{{- if $access.caSecret }}
- name: kafka-ca
  secret:
    secretName: {{ $access.caSecret | quote }}
    items: [{key: {{ $access.caKey | quote }}, path: ca.crt}]
{{- end }}
{{- end -}}

{{/* The ports at which the brokers listen, as YAML. */}}
{{- define "chatmesh.kafka.ports" -}}
{{- if eq .Values.kafka.mode "strimzi" }}
ports: [9093]
{{- else if .Values.networkPolicy.kafka.ports }}
ports: {{ toJson .Values.networkPolicy.kafka.ports }}
{{- else }}
{{- $ports := list }}
{{- range .Values.kafka.external.bootstrapServers | nospace | splitList "," | compact }}
{{- $ports = append $ports (regexFind "[0-9]+$" . | int) }}
{{- end }}
ports: {{ $ports | uniq | toJson }}
{{- end }}
{{- end -}}
