{{- define "name" -}}
{{ default .Release.Name .Values.name }}
{{- end -}}
{{- define "account" -}}
{{ default (default .Release.Name .Values.name) .Values.serviceAccount.name }}
{{- end -}}
{{- define "app" -}}
{{ default (default .Release.Name .Values.name) .Values.labels.app }}
{{- end -}}
{{- define "istio" -}}
{{ default (trimPrefix "istio-" (default .Release.Name .Values.name)) .Values.labels.istio }}
{{- end -}}
{{- define "selector" -}}
{"app": "{{ template "app" . }}", "istio": "{{ template "istio" . }}"}
{{- end -}}
{{- define "labels" }}
    app: {{ template "app" . }}
    istio: {{ template "istio" . }}
    app.kubernetes.io/name: {{ template "name" . }}
    app.kubernetes.io/part-of: istio
    app.kubernetes.io/version: {{ toJson .Chart.AppVersion }}
    app.kubernetes.io/managed-by: {{ .Release.Service }}
    {{- if .Values.networkGateway }}
    topology.istio.io/network: {{ toJson .Values.networkGateway }}
    {{- end }}
    {{- range $name, $value := .Values.labels }}
    {{- if and (ne $name "app") (ne $name "istio") }}
    {{ toJson $name }}: {{ toJson $value }}
    {{- end }}
    {{- end }}
{{- end -}}
