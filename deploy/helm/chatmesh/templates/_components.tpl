{{/* {root, component, principal}: a service's whole environment, in which nothing stands twice. */}}
{{- define "chatmesh.env" -}}
{{- $env := include "chatmesh.env.parts" . -}}
{{- $seen := list -}}
{{- range fromYamlArray $env -}}
{{- if has .name $seen -}}
{{- fail (printf "%s: %s is set twice; %s.settings and %s.extraEnv may name what the chart does not set by itself, once" $.component .name $.component $.component) -}}
{{- end -}}
{{- $seen = append $seen .name -}}
{{- end -}}
{{- $env -}}
{{- end -}}

{{- define "chatmesh.env.parts" -}}
{{- $own := index .root.Values .component -}}
{{ include "chatmesh.kafka.env" . }}
# The topics are made by whoever has the right to: Strimzi's operator, the job beside this, or you.
- {name: CHATMESH_CREATE_TOPICS, value: "false"}
- {name: CHATMESH_SHUTDOWN_S, value: {{ $own.shutdownS | quote }}}
- {name: CHATMESH_MANAGEMENT_HOST, value: {{ .root.Values.listenAddress | quote }}}
- {name: CHATMESH_MANAGEMENT_PORT, value: "9464"}
- {name: CHATMESH_LOG_FORMAT, value: json}
{{- with .root.Values.tracing.endpoint }}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: {{ printf "k8s.namespace.name=%s,k8s.pod.name=$(POD_NAME)%s" $.root.Release.Namespace (include "chatmesh.tracing.attributes" $.root) | quote }}}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
- {name: OTEL_TRACES_SAMPLER, value: parentbased_traceidratio}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ $.root.Values.tracing.ratio | quote }}}
- {name: CHATMESH_TRACE_CONTENT, value: {{ $.root.Values.tracing.content | quote }}}
{{- end }}
{{ include (printf "chatmesh.%s.env" .component) .root | trim }}
{{- range $name, $value := $own.settings }}
- {name: {{ $name }}, value: {{ include "chatmesh.scalar" $value | quote }}}
{{- end }}
{{- with $own.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Written as OpenTelemetry reads it: values URL-encoded, where a space is no plus. Kubernetes then finds no $(NAME) in them. */}}
{{- define "chatmesh.tracing.attributes" -}}
{{- range $name, $value := .Values.tracing.resourceAttributes -}}
,{{ $name }}={{ $value | urlquery | replace "+" "%20" }}
{{- end -}}
{{- end -}}

{{/* What the services differ in: per service its environment, mounts and volumes beside those that all have. */}}

{{- define "chatmesh.model.env" -}}
{{- with .Values.model.name }}
- {name: CHATMESH_MODEL, value: {{ . | quote }}}
{{- end }}
{{ include "chatmesh.hub.env" . }}
{{- end -}}

{{/* Of whoever may fetch from the Hugging Face hub: a model, its tokenizer, what a moderation policy names. */}}
{{- define "chatmesh.hub.env" -}}
{{- if .Values.model.download }}
{{- if .Values.model.token.secretName }}
- {name: HF_TOKEN_PATH, value: /etc/chatmesh/hub/token}
{{- end }}
{{- else }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
{{- end -}}

{{- define "chatmesh.hub.mounts" -}}
{{- if and .Values.model.download .Values.model.token.secretName }}
- {name: hub-token, mountPath: /etc/chatmesh/hub, readOnly: true}
{{- end }}
{{- end -}}

{{- define "chatmesh.hub.volumes" -}}
{{- if and .Values.model.download .Values.model.token.secretName }}
- name: hub-token
  secret:
    secretName: {{ .Values.model.token.secretName | quote }}
    defaultMode: 0440
    items: [{key: {{ .Values.model.token.key | quote }}, path: token}]
{{- end }}
{{- end -}}

{{- define "chatmesh.model.mounts" -}}
{{ include "chatmesh.hub.mounts" . }}
{{- if .Values.model.existingClaim }}
- {name: models, mountPath: {{ .Values.model.path | quote }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "chatmesh.model.volumes" -}}
{{ include "chatmesh.hub.volumes" . }}
{{- with .Values.model.existingClaim }}
- name: models
  persistentVolumeClaim: {claimName: {{ . | quote }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* gateway */}}

{{- define "chatmesh.gateway.env" -}}
- {name: CHATMESH_HOST, value: {{ .Values.listenAddress | quote }}}
- {name: PORT, value: "8080"}
- {name: CHATMESH_API_KEYS, value: /etc/chatmesh/keys/api-keys.yaml}
{{- if .Values.gateway.rateLimits }}
- {name: CHATMESH_RATE_LIMITS, value: /etc/chatmesh/limits/rate-limits.yaml}
{{- end }}
{{ include "chatmesh.model.env" . }}
{{- end -}}

{{- define "chatmesh.gateway.mounts" -}}
- {name: api-keys, mountPath: /etc/chatmesh/keys, readOnly: true}
{{- if .Values.gateway.rateLimits }}
- {name: rate-limits, mountPath: /etc/chatmesh/limits, readOnly: true}
{{- end }}
{{ include "chatmesh.model.mounts" . }}
{{- end -}}

{{- define "chatmesh.gateway.volumes" -}}
- name: api-keys
  secret:
    secretName: {{ required "gateway.apiKeys.secretName is needed: a secret that holds the file of API keys" .Values.gateway.apiKeys.secretName | quote }}
    defaultMode: 0440
    items: [{key: {{ .Values.gateway.apiKeys.key | quote }}, path: api-keys.yaml}]
{{- if .Values.gateway.rateLimits }}
- name: rate-limits
  configMap: {name: {{ include "chatmesh.fullname" . }}-rate-limits}
{{- end }}
{{ include "chatmesh.model.volumes" . }}
{{- end -}}

{{/* moderation */}}

{{- define "chatmesh.moderation.env" -}}
{{- if .Values.moderation.policy }}
- {name: CHATMESH_POLICY, value: /etc/chatmesh/policy/policy.yaml}
{{- end }}
{{ include "chatmesh.hub.env" . }}
{{- end -}}

{{/* The policy's folder, not its file: a file mounted by subPath would never change. */}}
{{- define "chatmesh.moderation.mounts" -}}
- {name: cache, mountPath: /var/cache/chatmesh}
{{- if .Values.moderation.policy }}
- {name: policy, mountPath: /etc/chatmesh/policy, readOnly: true}
{{- end }}
{{ include "chatmesh.hub.mounts" . }}
{{- end -}}

{{- define "chatmesh.moderation.volumes" -}}
- name: cache
  emptyDir: {sizeLimit: 5Gi}
{{- if .Values.moderation.policy }}
- name: policy
  configMap: {name: {{ include "chatmesh.fullname" . }}-policy}
{{- end }}
{{ include "chatmesh.hub.volumes" . }}
{{- end -}}

{{/* inference */}}

{{- define "chatmesh.inference.env" -}}
{{- $gpu := .Values.inference.gpu -}}
- {name: CHATMESH_SLOTS, value: {{ .Values.inference.slots | quote }}}
- {name: CHATMESH_CACHE_DIR, value: /var/cache/chatmesh/models}
- {name: HF_HOME, value: /var/cache/chatmesh/hub}
{{- if $gpu.enabled }}
- {name: CHATMESH_DEVICE, value: cuda}
{{- if gt (int $gpu.count) 1 }}
- {name: CHATMESH_ENGINE, value: deepspeed}
- {name: CHATMESH_TENSOR_PARALLEL, value: {{ $gpu.count | quote }}}
{{- end }}
{{- else }}
- {name: OMP_NUM_THREADS, valueFrom: {resourceFieldRef: {resource: requests.cpu}}}
{{- end }}
{{ include "chatmesh.model.env" . }}
{{- end -}}

{{/* NCCL exchanges through /dev/shm, of which a container has 64 MiB. */}}
{{- define "chatmesh.inference.mounts" -}}
- {name: cache, mountPath: /var/cache/chatmesh}
{{- if and .Values.inference.gpu.enabled (gt (int .Values.inference.gpu.count) 1) }}
- {name: shm, mountPath: /dev/shm}
{{- end }}
{{ include "chatmesh.model.mounts" . }}
{{- end -}}

{{- define "chatmesh.inference.volumes" -}}
- name: cache
{{- if .Values.inference.cache.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.inference.cache.existingClaim | quote }}}
{{- else }}
  emptyDir: {sizeLimit: {{ .Values.inference.cache.sizeLimit }}}
{{- end }}
{{- if and .Values.inference.gpu.enabled (gt (int .Values.inference.gpu.count) 1) }}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: 8Gi}
{{- end }}
{{ include "chatmesh.model.volumes" . }}
{{- end -}}

{{/* history */}}

{{- define "chatmesh.history.env" -}}
{{- if .Values.history.mongodb.secretName }}
- {name: MONGODB_URL_FILE, value: /etc/chatmesh/mongodb/url}
{{- else }}
- {name: CHATMESH_DATA_DIR, value: /var/lib/chatmesh}
{{- end }}
{{ include "chatmesh.model.env" . }}
{{- end -}}

{{- define "chatmesh.history.mounts" -}}
{{- if .Values.history.mongodb.secretName }}
- {name: mongodb, mountPath: /etc/chatmesh/mongodb, readOnly: true}
{{- else }}
- {name: data, mountPath: /var/lib/chatmesh}
{{- end }}
{{ include "chatmesh.model.mounts" . }}
{{- end -}}

{{- define "chatmesh.history.volumes" -}}
{{- if .Values.history.mongodb.secretName }}
- name: mongodb
  secret:
    secretName: {{ .Values.history.mongodb.secretName | quote }}
    defaultMode: 0440
    items: [{key: {{ .Values.history.mongodb.key | quote }}, path: url}]
{{- else }}
- name: data
  persistentVolumeClaim: {claimName: {{ include "chatmesh.fullname" . }}-history}
{{- end }}
{{ include "chatmesh.model.volumes" . }}
{{- end -}}
