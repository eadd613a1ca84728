{{/* Names: at most 63 characters with the longest suffix that a pod gets; a Service's begins with a letter and has no dots. */}}
{{- define "chatmesh.fullname" -}}
{{- if regexMatch "^[0-9]" .Release.Name -}}
{{- fail (printf "the release's name, %s, begins with a digit, and a Service's may not: name it otherwise" .Release.Name) -}}
{{- end -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- ternary $release (printf "%s-%s" $release .Chart.Name) (contains .Chart.Name $release) | trunc 40 | trimAll "-" -}}
{{- end -}}

{{- /* The mesh's name among others under one Prometheus. */}}
{{- define "chatmesh.mesh" -}}
{{ .Release.Namespace }}/{{ include "chatmesh.fullname" . }}
{{- end }}

{{/* What selects the pods of one component: {root, component}. Never changes, for a Deployment's selector cannot. */}}
{{- define "chatmesh.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* What selects all pods of the release. */}}
{{- define "chatmesh.selector.all" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Labels of a pod: {root, component}, and `own` where its component has some. Not the chart's version, whose change alone must not restart pods. */}}
{{- define "chatmesh.podLabels" -}}
{{ include "chatmesh.selector" . }}
app.kubernetes.io/part-of: chatmesh
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- with merge (dict) (.own | default dict) .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of an object: {root, component}. */}}
{{- define "chatmesh.labels" -}}
{{ include "chatmesh.podLabels" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* {root, component}: the image of a component, or of the tools. */}}
{{- define "chatmesh.image" -}}
{{- $own := (index .root.Values .component).image -}}
{{- $repository := $own.repository | default (printf "%s-%s" .root.Values.images.repository .component) -}}
{{- if $own.digest -}}
{{- printf "%s@%s" $repository $own.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($own.tag | default .root.Values.images.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* A value as a variable holds it. Helm reads 1000000 as a float, which would become 1e+06. */}}
{{- define "chatmesh.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* What every pod has, and is held to: {root}. */}}
{{- define "chatmesh.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - {name: {{ . | quote }}}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The same of every container: {root, component}. */}}
{{- define "chatmesh.container" -}}
image: {{ include "chatmesh.image" . | quote }}
imagePullPolicy: {{ .root.Values.images.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* {root, component}: seconds until a pod is killed; its own end has one deadline, shutdownS. */}}
{{- define "chatmesh.terminationS" -}}
{{- $own := index .root.Values .component -}}
{{- add (int $own.preStopS) (int $own.shutdownS) (int .root.Values.terminationMarginS) -}}
{{- end -}}

{{/* {root, component}: seconds until a service must have become ready. */}}
{{- define "chatmesh.startS" -}}
{{- $own := index .root.Values .component -}}
{{- add (int .root.Values.startTimeoutS) (int ($own.loadS | default 60)) -}}
{{- end -}}
