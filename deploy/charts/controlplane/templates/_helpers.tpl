{{- define "rev" -}}
{{ default "default" .Values.revision }}
{{- end -}}
{{- define "suffix" -}}
{{- if and .Values.revision (ne .Values.revision "default") }}-{{ .Values.revision }}{{ end -}}
{{- end -}}
{{- define "labels" -}}
{"app": "istiod", "istio": "pilot", "istio.io/rev": "{{ template "rev" . }}", "app.kubernetes.io/name": "istiod", "app.kubernetes.io/part-of": "istio", "app.kubernetes.io/version": {{ toJson .Chart.AppVersion }}, "app.kubernetes.io/managed-by": {{ toJson .Release.Service }}}
{{- end -}}
{{- define "selector" -}}
{"app": "istiod", "istio.io/rev": "{{ template "rev" . }}"}
{{- end -}}
{{- define "tag" -}}
{{ default .Chart.AppVersion .Values.global.tag }}
{{- end -}}
{{- define "elsewhere" -}}
{{- if ne .Release.Namespace "istio-system" }}-{{ .Release.Namespace }}{{ end -}}
{{- end -}}
