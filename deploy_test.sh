#!/usr/bin/env bash
# Smoke test of a running service, for operators. See --help.
set -uo pipefail

usage() {
    cat <<'EOF'
Usage: deploy_test.sh [BASE_URL] [ORIGIN] [IMAGE]

Checks a running service with curl: health, CORS, an upscaling, the cached result, conditional
requests, cache headers and errors. Changes nothing, except that one result is stored.

  BASE_URL  URL of the service               (default http://localhost:7860)
  ORIGIN    an origin that should be allowed (default http://localhost:3000)
  IMAGE     an image to upscale              (default: a small built-in one)

Environment: CURL_OPTIONS is passed to every curl, such as --insecure for a test certificate.
SR_IMAGE_ADDRESS is what `superres sign` printed, to check that too.
SR_API_KEY is the key, if the service requires one; it is sent to BASE_URL/api only.
Exit status: 0 if all checks pass, 1 if any fails, 2 for wrong arguments or if curl is missing.
EOF
}

case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
esac
if [ $# -gt 3 ]; then usage >&2; exit 2; fi
if ! command -v curl >/dev/null; then echo "curl is missing" >&2; exit 2; fi

base=${1:-http://localhost:7860}
base=${base%/}
origin=${2:-http://localhost:3000}
foreign=https://not-allowed.example
image=${3:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
if [ -n "${SR_API_KEY:-}" ]; then printf 'oauth2-bearer = "%s"\n' "$SR_API_KEY" >"$work/key"; fi

if [ -z "$image" ]; then
    image=$work/picture.png
    # 8x8 pixels, red above blue.
    base64 -d >"$image" <<'EOF'
iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAG0lEQVR42mO8IyfHgA0wMeAApEswytncobUdAFXvAl0/GUpBAAAAAElFTkSuQmCC
EOF
elif [ ! -r "$image" ]; then
    echo "cannot read $image" >&2
    exit 2
fi

# request NAME CURL-ARGUMENTS...: leaves status, $work/NAME.head and $work/NAME.body.
request() {
    local name=$1
    shift
    local config=/dev/null
    # In a file: other users can see a program's arguments.
    if [[ -n ${SR_API_KEY:-} && ${!#} == "$base"/api/* ]]; then config=$work/key; fi
    # shellcheck disable=SC2086  # CURL_OPTIONS are several words
    status=$(curl --silent --show-error --max-time 300 --config "$config" ${CURL_OPTIONS:-} \
        --dump-header "$work/$name.head" --output "$work/$name.body" --write-out '%{http_code}' "$@")
}

# header NAME FIELD: the field's value in the last answer's header.
header() {
    tr -d '\r' <"$work/$1.head" 2>/dev/null |
        awk -v field="$2" 'BEGIN { field = tolower(field) ":" }
            /^HTTP\// { value = "" }
            tolower($1) == field { sub(/^[^:]*: */, ""); value = $0 }
            END { print value }'
}

# check WORDS ACTUAL EXPECTED: EXPECTED is a shell pattern.
check() {
    # shellcheck disable=SC2053  # the right side is a pattern on purpose
    if [[ $2 == $3 ]]; then
        echo "pass  $1"
    else
        echo "FAIL  $1: got '$2', expected '$3'"
        failed=$((failed + 1))
    fi
}

echo "Testing $base"

if [[ $base == https://* ]]; then
    plain=http://${base#https://}
    request redirect "$plain/api/health"
    check "http is redirected without changing the method" "$status" 308
    check "the redirect goes to https" "$(header redirect Location)" "https://*"
fi

request health "$base/api/health"
check "health answers" "$status" 200
check "health says healthy" "$(cat "$work/health.body" 2>/dev/null)" '*"healthy"*'
check "health is never stored" "$(header health Cache-Control)" no-store
if [ "$status" != 200 ]; then
    echo "the service does not answer; skipping the other checks"
    exit 1
fi

request own -H 'Sec-Fetch-Site: same-origin' "$base/api/stats"
check "browsers may use this host name (if not: SR_TRUSTED_HOSTS, SR_PUBLIC_URL)" "$status" '@(200|401)'
request rebound -H "Host: ${foreign#https://}" -H "Origin: $foreign" "$base/api/stats" 2>/dev/null
check "and no other" "$status" '@(000|403)'

preflight=(--request OPTIONS -H 'Access-Control-Request-Method: POST'
    -H 'Access-Control-Request-Headers: content-type')
request allowed "${preflight[@]}" -H "Origin: $origin" "$base/api/enhance"
allowed=$(header allowed Access-Control-Allow-Origin)
request refused "${preflight[@]}" -H "Origin: $foreign" "$base/api/enhance"
refused=$(header refused Access-Control-Allow-Origin)
if [ "$refused" = '*' ]; then
    check "any origin may use the API (SR_CORS_ORIGINS is empty: for development)" "$allowed" '\*'
else
    check "preflight of $origin is allowed" "$allowed" "$origin"
    check "preflight of $foreign is refused" "$refused" ""
fi

request first -F "image=@$image" "$base/api/enhance"
check "an image is upscaled" "$status" 200
check "the result is a PNG" "$(header first Content-Type)" image/png
check "the result is immutable" "$(header first Cache-Control)" "public, max-age=*, immutable"
etag=$(header first ETag)
check "the result has a strong ETag" "$etag" '"*"'
request second -F "image=@$image" "$base/api/enhance"
check "the second time, it is a cache hit" "$(header second X-Cache-Hit)" true
check "with the same ETag" "$(header second ETag)" "$etag"

result=$(header second Link)
result=${result#<}
result=${result%%>*}
check "the result has a URL" "$result" "http*/cache/*.png"
request get "$result"
check "the URL serves the same image" "$(cksum <"$work/get.body")" "$(cksum <"$work/second.body")"
check "any origin may read it" "$(header get Access-Control-Allow-Origin)" '\*'
request head --head "$result"
check "HEAD gives its length" "$(header head Content-Length)" "$(wc -c <"$work/get.body" | tr -d ' ')"
request unchanged -H "If-None-Match: $etag" "$result"
check "an unchanged result is 304" "$status" 304

request missing "$base/cache/missing.png"
check "a missing result is 404" "$status" 404
check "errors are problem+json" "$(header missing Content-Type)" application/problem+json
check "errors are never stored" "$(header missing Cache-Control)" "no-store*"
# 404: there are none, because SR_URL_KEY is not set.
request unsigned "$base/image/x/scale:3/aHR0cHM6Ly9hLmV4YW1wbGUv.png"
check "an image's address without a signature is refused" "$status" '@(403|404)'
check "and that is never stored" "$(header unsigned Cache-Control)" "no-store*"
if [ -n "${SR_IMAGE_ADDRESS:-}" ]; then
    request sourced "$base/image/${SR_IMAGE_ADDRESS##*/image/}"
    check "a signed address is an image" "$status $(header sourced Content-Type)" "200 image/*"
    check "any page may show it" "$(header sourced Access-Control-Allow-Origin)" '\*'
    etag=$(header sourced ETag)
    request same -H "If-None-Match: $etag" "$base/image/${SR_IMAGE_ADDRESS##*/image/}"
    check "an unchanged one is 304" "$status" 304
fi
request nothing --request POST "$base/api/enhance"
check "a request without an image is 415" "$status" 415

if [ "$failed" -gt 0 ]; then
    echo "$failed checks failed"
    exit 1
fi
echo "all checks passed"
