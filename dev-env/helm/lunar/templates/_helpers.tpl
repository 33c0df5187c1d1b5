{{- define "lunar.namespace" -}}
{{- .Values.namespace.name | default .Release.Namespace -}}
{{- end -}}

{{/* Labels by which a selector finds the pods of a component: (list . "component"). */}}
{{- define "lunar.labels" -}}
app.kubernetes.io/name: lunar
app.kubernetes.io/component: {{ . }}
{{- end -}}

{{- define "lunar.driver" -}}csi.lunar.storage{{- end -}}

{{/* An image: (list registry image default-tag). */}}
{{- define "lunar.image" -}}
{{- $registry := index . 0 -}}{{- $image := index . 1 -}}
{{- if $registry }}{{ trimSuffix "/" $registry }}/{{ end -}}
{{ $image.repository }}:{{ $image.tag | default (index . 2) }}
{{- end -}}

{{- define "lunar.ownImage" -}}
{{- $root := index . 0 -}}
{{- include "lunar.image" (list $root.Values.images.registry (index . 1) $root.Chart.AppVersion) -}}
{{- end -}}

{{/* The image of a sidecar: (list . image). Its tag is never empty, by the schema. */}}
{{- define "lunar.sidecarImage" -}}
{{- $root := index . 0 -}}
{{- include "lunar.image" (list $root.Values.sidecars.registry (index . 1) "") -}}
{{- end -}}

{{- define "lunar.metadataEndpoint" -}}
{{- if .Values.metadata.endpoint -}}
{{ .Values.metadata.endpoint }}
{{- else if not .Values.metadata.enabled -}}
{{ fail "metadata.enabled is false: metadata.endpoint has to say where the service is" }}
{{- else if .Values.tls.enabled -}}
https://lunar-metadata.{{ include "lunar.namespace" . }}.svc:7420
{{- else -}}
127.0.0.1:7420
{{- end -}}
{{- end -}}

{{/* What a process that needs nothing is left with. */}}
{{- define "lunar.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Flags of leader election, for sidecars that run in every replica. */}}
{{- define "lunar.election" -}}
- --leader-election
- --leader-election-namespace={{ include "lunar.namespace" . }}
{{- end -}}

{{/* What all sidecars of the controller end with; more mounts may follow. */}}
{{- define "lunar.sidecarRest" -}}
imagePullPolicy: {{ .Values.sidecars.pullPolicy }}
securityContext:
  {{- include "lunar.confined" . | nindent 2 }}
resources:
  {{- toYaml .Values.sidecars.resources | nindent 2 }}
volumeMounts:
  - name: socket
    mountPath: /csi
{{- end -}}
