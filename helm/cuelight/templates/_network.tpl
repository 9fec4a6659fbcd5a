{{/* Both ends of a flow: rules of network policies, each for one port. */}}

{{/* dict root component: pods of a component, as a peer. */}}
{{- define "cuelight.peer" -}}
- podSelector:
    matchLabels:
      {{- include "cuelight.selector" . | nindent 6 }}
{{- end }}

{{- define "cuelight.tcp" -}}
ports:
  - port: {{ . }}
    protocol: TCP
{{- end }}

{{/* dict root ports: Prometheus reads the metrics. */}}
{{- define "cuelight.metricsIngress" -}}
- from:
    {{- toYaml .root.Values.networkPolicy.monitoring | nindent 4 }}
  {{- include "cuelight.tcp" .ports.metrics | nindent 2 }}
{{- end }}

{{/* root: names become addresses. */}}
{{- define "cuelight.dnsEgress" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end }}

{{/* dict root ports: to the trial Redis, or to wherever the operator's is. */}}
{{- define "cuelight.redisEgress" -}}
{{- $redis := .root.Values.redis }}
{{- if $redis.trial.enabled -}}
- to:
    {{- include "cuelight.peer" (dict "root" .root "component" "redis") | nindent 4 }}
  {{- include "cuelight.tcp" .ports.redis | nindent 2 }}
{{- else -}}
{{ include "cuelight.redisServers" $redis }}
{{- end }}
{{- end }}

{{/* Values: to the Redis with the queue of renders, where it is another one. */}}
{{- define "cuelight.jobsEgress" -}}
{{- if and .render.enabled .redis.jobs.existingSecret.name }}
{{ include "cuelight.redisServers" .redis.jobs }}
{{- end }}
{{- end }}

{{/* port sentinelPort nodePorts peers: to a Redis outside the release. */}}
{{- define "cuelight.redisServers" -}}
- ports:
    - port: {{ .port }}
      protocol: TCP
  {{- with .sentinelPort }}
    - port: {{ . }}
      protocol: TCP
  {{- end }}
  {{- range .nodePorts }}
    - port: {{ . }}
      protocol: TCP
  {{- end }}
  {{- with .peers }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* root: spans go to the collector; nothing where there is none. */}}
{{- define "cuelight.tracesEgress" -}}
{{- with .Values.monitoring.traces }}
{{- if .address }}
- ports:
    - port: {{ splitList ":" .address | last | int }}
      protocol: TCP
  {{- with .peers }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* dict root component: head of a policy. */}}
{{- define "cuelight.policyHead" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "cuelight.name" . }}
  labels:
    {{- include "cuelight.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "cuelight.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end }}
