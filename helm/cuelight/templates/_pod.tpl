{{/*
The pod of a component: dict root component block ports needsRedis env, noBundle where it loads none, needsApi where it
speaks to the API server, renders where it has their folder, version and bundle where it is one of several.
`ports` are the named ports its process serves. Health has one of its own, since probes carry no certificates.
*/}}
{{- define "cuelight.pod" -}}
{{- $root := .root }}
{{- $block := .block }}
{{- $bundle := default $root.Values.bundle .bundle }}
metadata:
  labels:
    {{- include "cuelight.podLabels" . | nindent 4 }}
    {{- with $block.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $checksum := include "cuelight.redisChecksum" . }}
  {{- if or $checksum $block.podAnnotations }}
  annotations:
    {{- with $checksum }}
    checksum/redis: {{ . }}
    {{- end }}
    {{- with $block.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
spec:
  serviceAccountName: {{ include "cuelight.name" (omit . "version") }}
  {{- include "cuelight.podDefaults" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "cuelight.grace" . }}
  {{- with include "cuelight.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if not .noBundle }}
  {{- with include "cuelight.bundleInit" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "cuelight.image" (dict "root" $root "image" $block.image) }}
      imagePullPolicy: {{ $block.image.pullPolicy }}
      command: ["python", "-m", {{ .module | quote }}]
      env:
        {{- include "cuelight.env" . | trim | nindent 8 }}
      ports:
        {{- range $name, $port := .ports }}
        - name: {{ $name }}
          containerPort: {{ $port }}
          protocol: TCP
        {{- end }}
      {{- include "cuelight.probes" . | nindent 6 }}
      {{- with $block.preStopSeconds }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ . }}
      {{- end }}
      resources:
        {{- include "cuelight.resources" $block | nindent 8 }}
      securityContext:
        {{- include "cuelight.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        - name: scratch
          mountPath: /tmp
        {{- if not .noBundle }}
        {{- with include "cuelight.bundleMount" $bundle | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- end }}
        {{- with .renders }}
        - name: renders
          mountPath: /srv/renders
          {{- with $root.Values.render.claim.subPath }}
          subPath: {{ . }}
          {{- end }}
          {{- if .readOnly }}
          readOnly: true
          {{- end }}
        {{- end }}
        {{- range include "cuelight.secretFiles" . | fromYamlArray }}
        - name: {{ .name }}
          mountPath: /etc/cuelight/{{ .name }}
          readOnly: true
        {{- end }}
  volumes:
    - name: scratch
      emptyDir:
        sizeLimit: 1Gi
    {{- if not .noBundle }}
    {{- with include "cuelight.bundleVolume" (dict "bundle" $bundle "sizeLimit" $root.Values.bundle.sizeLimit) | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- with .renders }}
    - name: renders
      persistentVolumeClaim:
        claimName: {{ $root.Values.render.claim.name }}
    {{- end }}
    {{- range include "cuelight.secretFiles" . | fromYamlArray }}
    - name: {{ .name }}
      secret:
        secretName: {{ .secret }}
        defaultMode: 0440
    {{- end }}
{{- end }}

{{/* dict root: what holds for every pod of the release. */}}
{{- define "cuelight.podDefaults" -}}
automountServiceAccountToken: {{ default false .needsApi }}
# Service links would add variables like CUELIGHT_GATEWAY_PORT, which the processes refuse as unknown settings.
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/*
dict root needsRedis: what changes when the Secret with Redis' URL does, which processes read once: an upgrade then rolls
the pods. Empty where Helm cannot look, as in `helm template`. Settings stand in the pods themselves; certificates of
gRPC ports and API keys are read again when they change.
*/}}
{{- define "cuelight.redisChecksum" -}}
{{- $redis := .root.Values.redis }}
{{- if and .needsRedis (not $redis.trial.enabled) }}
{{- $read := list }}
{{- range compact (list $redis.existingSecret.name $redis.ca.secretName $redis.jobs.existingSecret.name) }}
{{- with lookup "v1" "Secret" $.root.Release.Namespace . }}
{{- $read = append $read (toJson .data) }}
{{- end }}
{{- end }}
{{- with $read }}{{ join "," . | sha256sum }}{{ end }}
{{- end }}
{{- end }}

{{- define "cuelight.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end }}

{{/* dict root component block: where the pods of a component may run. */}}
{{- define "cuelight.placement" -}}
{{- $selector := include "cuelight.selector" . }}
{{- with .block.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .block.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .block.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .block.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .block.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .block.topologyKeys }}
topologySpreadConstraints:
  {{- range . }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The environment: what the chart knows, then the settings, then whatever is not Cuelight's. */}}
{{- define "cuelight.env" -}}
{{- if .needsRedis }}
- name: CUELIGHT_REDIS_URL
  {{- if .root.Values.redis.trial.enabled }}
  value: {{ printf "redis://%s:6379/0" (include "cuelight.name" (dict "root" .root "component" "redis")) | quote }}
  {{- else }}
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.redis.existingSecret.name }}
      key: {{ .root.Values.redis.existingSecret.key }}
  {{- end }}
{{- end }}
{{- if not .noBundle }}
- name: CUELIGHT_BUNDLE
  value: {{ include "cuelight.bundlePath" (default .root.Values.bundle .bundle) | quote }}
{{- end }}
- name: CUELIGHT_METRICS_LISTEN
  value: {{ printf "0.0.0.0:%v" .ports.metrics | quote }}
- name: CUELIGHT_HEALTH_LISTEN
  value: {{ printf "0.0.0.0:%v" .ports.health | quote }}
{{- if has .component (list "gateway" "worker" "orchestrator") }}
{{- with .root.Values.monitoring.traces }}
{{- if .address }}
- name: CUELIGHT_TRACES_ADDRESS
  value: {{ .address | quote }}
- name: CUELIGHT_TRACES_SHARE
  value: {{ include "cuelight.plain" .share | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if .asksForNothing }}
- name: CUELIGHT_ALLOW_STRANGERS
  value: "true"
{{- end }}
{{- if include "cuelight.tlsSecret" . }}
- name: CUELIGHT_TLS_CERTIFICATE
  value: /etc/cuelight/tls/tls.crt
- name: CUELIGHT_TLS_KEY
  value: /etc/cuelight/tls/tls.key
- name: CUELIGHT_TLS_CA
  value: /etc/cuelight/tls/ca.crt
{{- with .root.Values.tls.peerName }}
- name: CUELIGHT_TLS_PEER_NAME
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- if gt (int (dig "gpu" "count" 0 .block)) 0 }}
- name: CUELIGHT_DEVICE
  value: "cuda"
{{- end }}
{{ trim .env }}
{{- range $name, $value := .block.settings }}
- name: CUELIGHT_{{ upper $name }}
  value: {{ include "cuelight.plain" $value | quote }}
{{- end }}
{{- with .block.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* `liveness`: the event loop turns; `readiness`: new work is taken. A port that is not open yet is a start. */}}
{{- define "cuelight.probes" -}}
startupProbe:
  grpc:
    port: {{ .ports.health }}
    service: liveness
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: {{ div (add .block.startupSeconds 4) 5 }}
livenessProbe:
  grpc:
    port: {{ .ports.health }}
    service: liveness
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  grpc:
    port: {{ .ports.health }}
    service: readiness
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* A block's requests and limits, with its accelerators, which are asked for here and nowhere else. */}}
{{- define "cuelight.resources" -}}
{{- $limits := deepCopy .resources.limits }}
{{- $gpu := dict "count" 0 | merge (deepCopy (default dict .gpu)) }}
{{- if gt (int $gpu.count) 0 }}
{{- $_ := set $limits $gpu.resource (toString (int $gpu.count)) }}
{{- end }}
{{- toYaml (dict "requests" .resources.requests "limits" $limits) }}
{{- end }}

{{/* bundle */}}
{{- define "cuelight.bundleMount" -}}
{{- if ne .source "image" }}
- name: bundles
  mountPath: /srv/bundles
  {{- if eq .source "imageVolume" }}
  subPath: bundles
  {{- else if and (eq .source "claim") .claim.subPath }}
  subPath: {{ .claim.subPath }}
  {{- end }}
  readOnly: true
{{- end }}
{{- end }}

{{/* dict bundle sizeLimit */}}
{{- define "cuelight.bundleVolume" -}}
{{- $bundle := .bundle }}
{{- if eq $bundle.source "claim" }}
- name: bundles
  persistentVolumeClaim:
    claimName: {{ $bundle.claim.name }}
    readOnly: true
{{- else if eq $bundle.source "imageVolume" }}
- name: bundles
  image:
    reference: {{ include "cuelight.reference" (dict "image" $bundle.image) }}
    pullPolicy: {{ default "IfNotPresent" $bundle.image.pullPolicy }}
{{- else if eq $bundle.source "initContainer" }}
- name: bundles
  emptyDir:
    sizeLimit: {{ .sizeLimit }}
{{- end }}
{{- end }}

{{/* Brings the bundle where it has to be copied, and ends the start when it is not the one that was asked for. */}}
{{- define "cuelight.bundleInit" -}}
{{- $bundle := default .root.Values.bundle .bundle }}
{{- if or (eq $bundle.source "initContainer") $bundle.digest }}
initContainers:
  {{- if eq $bundle.source "initContainer" }}
  - name: bundle-copy
    image: {{ include "cuelight.reference" (dict "image" $bundle.image) }}
    imagePullPolicy: {{ default "IfNotPresent" $bundle.image.pullPolicy }}
    command: ["cp", "-r", "/bundles/.", "/srv/bundles/"]
    resources:
      {{- include "cuelight.initResources" . | nindent 6 }}
    securityContext:
      {{- include "cuelight.containerSecurity" .root | nindent 6 }}
    volumeMounts:
      - name: bundles
        mountPath: /srv/bundles
  {{- end }}
  {{- with $bundle.digest }}
  - name: bundle-check
    image: {{ include "cuelight.image" (dict "root" $.root "image" $.block.image) }}
    imagePullPolicy: {{ $.block.image.pullPolicy }}
    command: ["python", "-c"]
    args:
      - |
        {{- $.root.Files.Get "files/check_bundle.py" | nindent 8 }}
      - {{ include "cuelight.bundlePath" $bundle | quote }}
      - {{ . | quote }}
    resources:
      {{- include "cuelight.initResources" $ | nindent 6 }}
    securityContext:
      {{- include "cuelight.containerSecurity" $.root | nindent 6 }}
    {{- if ne $bundle.source "image" }}
    volumeMounts:
      {{- include "cuelight.bundleMount" $bundle | trim | nindent 6 }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "cuelight.initResources" -}}
requests: {cpu: 100m, memory: 128Mi}
limits: {memory: 512Mi}
{{- end }}
