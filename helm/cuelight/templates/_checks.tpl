{{/* What the schema cannot say in a sentence: values that contradict one another. Included once, by every workload. */}}
{{- define "cuelight.checks" -}}
{{- $redis := .Values.redis }}
{{- if and $redis.trial.enabled $redis.existingSecret.name }}
{{- fail "redis: trial.enabled and existingSecret.name exclude one another" }}
{{- end }}
{{- if not (or $redis.trial.enabled $redis.existingSecret.name) }}
{{- fail "redis: name a Secret that holds the URL in existingSecret.name, or set trial.enabled to try Cuelight out" }}
{{- end }}
{{- if and $redis.trial.enabled (ne $redis.kind "single") }}
{{- fail (printf "redis: the trial Redis is a single server, not kind %s" $redis.kind) }}
{{- end }}
{{- if and .Values.networkPolicy.enabled (eq $redis.kind "sentinel") (not $redis.sentinelPort) }}
{{- fail "redis: kind sentinel needs sentinelPort, or no process would reach the Sentinels" }}
{{- end }}
{{- if and $redis.nodePorts (ne $redis.kind "cluster") }}
{{- fail "redis: nodePorts are of kind cluster" }}
{{- end }}
{{- if and .Values.render.enabled (eq $redis.kind "cluster") (not $redis.jobs.existingSecret.name) }}
{{- fail "redis: a cluster cannot hold the queue of renders; name a Secret with the URL of another Redis in jobs.existingSecret.name" }}
{{- end }}
{{- $bundle := .Values.bundle }}
{{- if and (eq $bundle.source "claim") (not $bundle.claim.name) }}
{{- fail "bundle: source claim needs claim.name" }}
{{- end }}
{{- if has $bundle.source (list "imageVolume" "initContainer") }}
{{- if not (and $bundle.image.repository (or $bundle.image.tag $bundle.image.digest)) }}
{{- fail (printf "bundle: source %s needs image.repository, and image.digest or image.tag" $bundle.source) }}
{{- end }}
{{- end }}
{{- if and (eq $bundle.source "initContainer") (not $bundle.digest) }}
{{- fail "bundle: source initContainer needs digest, against which the copy is checked" }}
{{- end }}
{{- if and (eq $bundle.source "imageVolume") (semverCompare ">=1.30.0-0, <1.33.0-0" .Capabilities.KubeVersion.Version) }}
{{- fail "bundle: source imageVolume needs Kubernetes 1.33 or newer" }}
{{- end }}
{{- $versions := list }}
{{- range include "cuelight.versions" . | fromYamlArray }}
{{- if has .version $versions }}
{{- fail (printf "bundle.previous: version %s is there twice; a previous bundle differs from all others in its digest or stateSchema" .version) }}
{{- end }}
{{- $versions = append $versions .version }}
{{- end }}
{{- range $bundle.previous }}
{{- if and (eq .source "claim") (not (dig "claim" "name" "" .)) }}
{{- fail "bundle.previous: source claim needs claim.name" }}
{{- end }}
{{- if and (has .source (list "imageVolume" "initContainer")) (not (dig "image" "repository" "" .)) }}
{{- fail (printf "bundle.previous: source %s needs image" .source) }}
{{- end }}
{{- end }}
{{- /* Only an upgrade by Helm itself finds something here: workers that it would delete under their sessions. */}}
{{- range (lookup "apps/v1" "StatefulSet" .Release.Namespace "").items }}
{{- $labels := default dict .metadata.labels }}
{{- $isOurs := and (eq (dig "app.kubernetes.io/instance" "" $labels) $.Release.Name) (eq (dig "app.kubernetes.io/component" "" $labels) "worker") }}
{{- $version := dig "cuelight.dev/version" "unnamed" $labels }}
{{- if and $isOurs (not (has $version $versions)) (gt (int (dig "replicas" 0 .status)) 0) }}
{{- fail (printf "bundle.previous: workers of version %s (%s) still run and are not listed; their sessions would be lost. List their bundle until it has no sessions, or scale them to 0 first" $version .metadata.name) }}
{{- end }}
{{- end }}
{{- $tls := .Values.tls }}
{{- if and (eq $tls.source "certManager") (not $tls.certManager.issuer.name) }}
{{- fail "tls: source certManager needs certManager.issuer.name" }}
{{- end }}
{{- if and (eq $tls.source "secrets") (not (and $tls.secrets.gateway $tls.secrets.orchestrator $tls.secrets.worker)) }}
{{- fail "tls: source secrets needs a Secret for each of gateway, orchestrator and worker" }}
{{- end }}
{{- if not .Values.allowStrangers }}
{{- if eq $tls.source "none" }}
{{- fail "tls: with source none, workers and orchestrators answer whoever reaches them; set it, or allowStrangers" }}
{{- end }}
{{- if not (include "cuelight.gatewayAsks" .) }}
{{- fail "gateway.auth: without API keys or JWTs anyone may perform; set apiKeys or jwt, or allowStrangers" }}
{{- end }}
{{- end }}
{{- if and .Values.fleet.enabled (eq $tls.source "secrets") (not $tls.secrets.fleet) }}
{{- fail "tls: source secrets needs a Secret for the fleet as well, in secrets.fleet" }}
{{- end }}
{{- if and .Values.fleet.autoscaler.enabled (or .Values.fleet.scaleWorkers (not .Values.fleet.enabled)) }}
{{- fail "fleet: autoscaler follows the controller's number in its place, so it needs fleet.enabled and scaleWorkers: false" }}
{{- end }}
{{- if .Values.render.enabled }}
{{- if not .Values.render.claim.name }}
{{- fail "render: enabled needs claim.name, a volume that gateways and render workers share" }}
{{- end }}
{{- if and (eq $tls.source "secrets") (not $tls.secrets.render) }}
{{- fail "tls: source secrets needs a Secret for render workers as well, in secrets.render" }}
{{- end }}
{{- end }}
{{- $jwt := .Values.gateway.auth.jwt }}
{{- if $jwt.issuer }}
{{- if not $jwt.audience }}
{{- fail "gateway.auth.jwt: issuer needs audience" }}
{{- end }}
{{- if eq (empty $jwt.keysUrl) (empty $jwt.keysSecret.name) }}
{{- fail "gateway.auth.jwt: issuer needs either keysUrl or keysSecret.name" }}
{{- end }}
{{- else if or $jwt.audience $jwt.keysUrl $jwt.keysSecret.name }}
{{- fail "gateway.auth.jwt: audience and keys need issuer" }}
{{- end }}
{{- $planners := .Values.planners }}
{{- if not (has $planners.default (append (keys $planners.named) "rule")) }}
{{- fail (printf "planners: default %s is neither rule nor one of the named" $planners.default) }}
{{- end }}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.planners) (regexMatch "openai:" (toJson $planners.named)) }}
{{- fail "planners: endpoints are reached only over the ports in networkPolicy.planners" }}
{{- end }}
{{- end }}
