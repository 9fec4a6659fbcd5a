{{/* Names, labels, images and numbers. Everything a pod consists of is in _pod.tpl. */}}

{{/* The ports that processes listen on, by flow; constants, so that policies, probes and services cannot differ. */}}
{{- define "cuelight.ports" -}}
gatewayGrpc: 50051
gatewayHttp: 8080
orchestrator: 50061
worker: 50071
redis: 6379
metrics: 9090
health: 50080
{{- end }}

{{/* Release name and chart name, once; short enough for a suffix. */}}
{{- define "cuelight.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 33 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 33 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 33 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* dict root component, version where objects are of one: name of a component's objects. */}}
{{- define "cuelight.name" -}}
{{ include "cuelight.fullname" .root }}-{{ .component }}{{ if ne (default "unnamed" .version) "unnamed" }}-{{ .version }}{{ end }}
{{- end }}

{{/* Layout of sessions' state that this version's processes write: STATE_SCHEMA in services/session.py. */}}
{{- define "cuelight.stateSchema" -}}
1
{{- end }}

{{/*
Values: the versions that are performed, the present one first, as a list of version, bundle, images, isPrevious. Sessions
are pinned to a bundle's digest and a layout of state, so these make its name; without a digest it is `unnamed`, and
names of objects say nothing of it.
*/}}
{{- define "cuelight.versions" -}}
{{- $versions := list }}
{{- $schema := include "cuelight.stateSchema" . | int }}
{{- $present := dict "bundle" (omit .Values.bundle "previous") "images" dict "stateSchema" $schema "isPrevious" false }}
{{- $known := list $present }}
{{- range .Values.bundle.previous }}
{{- $images := default dict .images }}
{{- $known = append $known (dict "bundle" . "images" $images "stateSchema" (default $schema .stateSchema) "isPrevious" true) }}
{{- end }}
{{- range $known }}
{{- $digest := default "" .bundle.digest }}
{{- $version := "unnamed" }}
{{- if $digest }}
{{- $version = printf "%ss%d" (trunc 8 $digest) (int .stateSchema) }}
{{- end }}
{{- $versions = append $versions (merge (dict "version" $version) .) }}
{{- end }}
{{- toYaml $versions }}
{{- end }}

{{/* dict root component: names of its objects of all versions, the present one first, as a list. */}}
{{- define "cuelight.namesOfAll" -}}
{{- $names := list }}
{{- range include "cuelight.versions" .root | fromYamlArray }}
{{- $names = append $names (include "cuelight.name" (dict "root" $.root "component" $.component "version" .version)) }}
{{- end }}
{{- toYaml $names }}
{{- end }}

{{/* dict block images component: the block of a component with the images of a version laid over it. */}}
{{- define "cuelight.blockOf" -}}
{{- with index .images .component }}
{{- $image := merge (deepCopy .) (omit $.block.image "tag" "digest") }}
{{- toYaml (merge (dict "image" (merge $image (dict "tag" "" "digest" ""))) $.block) }}
{{- else }}
{{- toYaml .block }}
{{- end }}
{{- end }}

{{/* dict root component, version where objects are of one: labels that select its pods; they never change. */}}
{{- define "cuelight.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .version }}
cuelight.dev/version: {{ . }}
{{- end }}
{{- end }}

{{/* dict root component: labels of a pod; a new version of the chart alone changes none, and so restarts nothing. */}}
{{- define "cuelight.podLabels" -}}
{{ include "cuelight.selector" . }}
app.kubernetes.io/part-of: cuelight
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* dict root component: all labels of an object. */}}
{{- define "cuelight.labels" -}}
{{ include "cuelight.podLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* dict root image: reference of an image; a digest wins over a tag. Ours come from image.registry. */}}
{{- define "cuelight.image" -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end }}
{{- include "cuelight.reference" (dict "image" .image "tag" .root.Chart.AppVersion) }}
{{- end }}

{{- define "cuelight.reference" -}}
{{- .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ default .tag .image.tag }}{{ end }}
{{- end }}

{{/* A value as an environment variable has it: whole numbers without an exponent. */}}
{{- define "cuelight.plain" -}}
{{- if kindIs "float64" . -}}
{{ if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- else -}}
{{ . }}
{{- end }}
{{- end }}

{{/* dict block: seconds from SIGTERM to SIGKILL: what preStop and the drain take, and 20 to let go and exit. */}}
{{- define "cuelight.grace" -}}
{{ add .block.preStopSeconds (ceil (default 10 .block.settings.drain_s) | int) 20 }}
{{- end }}

{{/* bundle: where it is in a pod. */}}
{{- define "cuelight.bundlePath" -}}
{{ ternary "/opt/cuelight/bundles" "/srv/bundles" (eq .source "image") }}/{{ .path }}
{{- end }}

{{/* dict root component: name of the Secret with a component's certificate; empty in the clear. */}}
{{- define "cuelight.tlsSecret" -}}
{{- if eq .root.Values.tls.source "certManager" }}{{ include "cuelight.name" (omit . "version") }}-tls
{{- else if eq .root.Values.tls.source "secrets" }}{{ index .root.Values.tls.secrets .component }}
{{- end }}
{{- end }}

{{/* Values: not empty when the gateway asks its clients who they are. */}}
{{- define "cuelight.gatewayAsks" -}}
{{- with .Values.gateway.auth }}{{ .apiKeys.secretName }}{{ .jwt.issuer }}{{ end }}
{{- end }}

{{/* dict root component needsRedis: the Secrets that are mounted as files, as a list of name, secret, path. */}}
{{- define "cuelight.secretFiles" -}}
{{- $files := list }}
{{- with include "cuelight.tlsSecret" . }}
{{- $files = append $files (dict "name" "tls" "secret" .) }}
{{- end }}
{{- if .needsRedis }}
{{- with .root.Values.redis.ca.secretName }}
{{- $files = append $files (dict "name" "redis-ca" "secret" .) }}
{{- end }}
{{- end }}
{{- if eq .component "orchestrator" }}
{{- with .root.Values.planners.keySecret.name }}
{{- $files = append $files (dict "name" "planner-key" "secret" .) }}
{{- end }}
{{- end }}
{{- if eq .component "gateway" }}
{{- $gateway := .root.Values.gateway }}
{{- with $gateway.auth.apiKeys.secretName }}
{{- $files = append $files (dict "name" "api-keys" "secret" .) }}
{{- end }}
{{- with $gateway.auth.jwt.keysSecret.name }}
{{- $files = append $files (dict "name" "jwt-keys" "secret" .) }}
{{- end }}
{{- with $gateway.tls.secretName }}
{{- $files = append $files (dict "name" "edge-tls" "secret" .) }}
{{- end }}
{{- end }}
{{- toYaml $files }}
{{- end }}

{{/* Values: where renders are, which gateway and render worker must know alike. */}}
{{- define "cuelight.renderFolderEnv" -}}
{{- if .Values.render.enabled }}
- name: CUELIGHT_RENDER_FOLDER
  value: /srv/renders
{{- with .Values.redis.jobs.existingSecret }}
{{- if .name }}
- name: CUELIGHT_JOBS_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Values: the planners, which gateway and orchestrator must know alike. */}}
{{- define "cuelight.plannersEnv" -}}
{{- if .Values.planners.named }}
- name: CUELIGHT_PLANNERS
  value: {{ toJson .Values.planners.named | quote }}
- name: CUELIGHT_PLANNER
  value: {{ .Values.planners.default | quote }}
{{- end }}
{{- end }}
