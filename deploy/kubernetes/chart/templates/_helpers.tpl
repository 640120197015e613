{{- define "cache-observer.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "cache-observer.selector" -}}
app.kubernetes.io/name: cache-observer
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "cache-observer.labels" -}}
{{ include "cache-observer.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "cache-observer.image" -}}
{{- $repository := required "image.repository is missing: there is no public image; build one and push it to your registry (deploy/container.md)" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "cache-observer.serviceAccount" -}}
{{- default (include "cache-observer.name" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "cache-observer.priorityClass" -}}
{{- default (ternary (include "cache-observer.name" .) "" .Values.priorityClass.create) .Values.priorityClass.name -}}
{{- end -}}

{{/* The configuration file: what the chart knows, then what the user adds. */}}
{{- define "cache-observer.config" -}}
{{- $metrics := list -}}
{{- if .Values.prometheus.enabled -}}{{- $metrics = append $metrics "prometheus" -}}{{- end -}}
{{- if and .Values.otlp.endpoint .Values.otlp.metrics -}}{{- $metrics = append $metrics "otlp" -}}{{- end -}}
{{- $traces := list -}}
{{- if and .Values.otlp.endpoint .Values.otlp.traces -}}{{- $traces = append $traces "otlp" -}}{{- end -}}
{{- $listen := printf "%s:%d" .Values.listen.address (int .Values.listen.port) -}}
redis-port = {{ toJson .Values.redisPorts }}
memcached-port = {{ toJson .Values.memcachedPorts }}
keys = {{ .Values.keys | quote }}
metrics-exporter = {{ toJson (default (list "none") $metrics) }}
traces-exporter = {{ toJson (default (list "none") $traces) }}
health-listen = {{ $listen | quote }}
{{- if .Values.prometheus.enabled }}
prometheus-listen = {{ $listen | quote }}
{{- end }}
{{- with .Values.config }}
{{ . | trimSuffix "\n" }}
{{- end }}
{{- end -}}
