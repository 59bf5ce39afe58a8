{{- define "veilmq.name" -}}
{{- printf "%s-veilmq" .Release.Name | replace "veilmq-veilmq" "veilmq" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "veilmq.selector" -}}
app.kubernetes.io/name: veilmq
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "veilmq.labels" -}}
{{ include "veilmq.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}
