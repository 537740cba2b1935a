{{- define "labels" -}}
{"app": "istio-base", "app.kubernetes.io/name": "istio-base", "app.kubernetes.io/part-of": "istio", "app.kubernetes.io/version": {{ toJson .Chart.AppVersion }}, "app.kubernetes.io/managed-by": {{ toJson .Release.Service }}}
{{- end -}}
{{- define "suffix" -}}
{{- if and .Values.defaultRevision (ne .Values.defaultRevision "default") }}-{{ .Values.defaultRevision }}{{ end -}}
{{- end -}}
