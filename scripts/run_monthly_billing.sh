#!/bin/sh
# Bill a month on a server that runs `spell-billing serve`, and wait until it is done. Needs only curl:
#   ADMIN_SECRET=... API_URL=https://billing.example.com scripts/run_monthly_billing.sh [YYYY-MM]
# Safe to run again at any time; the month is the last closed one by default. Exit codes: 0 everyone is billed, 3 users
# are left without an invoice, 1 it could not run or failed, 2 wrong usage. TIMEOUT_SECONDS (43200) bounds the waiting.
set -eu
export LC_ALL=C
month=${1:-} url=${API_URL:-} timeout=${TIMEOUT_SECONDS:-43200} direct='' now='' run='' said=''
url=${url%/}
fail() { printf 'Error: %s\n' "$2" >&2 && exit "$1"; }
wrong() { fail 2 "$1"; }

[ $# -le 1 ] || wrong "Give one month at most, as 2026-10."
case $month in '' | [0-9][0-9][0-9][0-9]-0[1-9] | [0-9][0-9][0-9][0-9]-1[0-2]) ;; *) wrong "That is not a month. Write it as 2026-10." ;; esac
case $timeout in '' | *[!0-9]* | ??????????*) wrong "TIMEOUT_SECONDS is not a number of seconds." ;; esac
case ${ADMIN_SECRET:-} in '') wrong "ADMIN_SECRET is not set." ;; *[!!-~]*) wrong "ADMIN_SECRET has a character that no HTTP header carries safely." ;; esac
case $url in
'') wrong "API_URL is not set. Set it to the server's address, as https://billing.example.com." ;;
*://*[!]A-Za-z0-9.:_[-]*) wrong "API_URL is not the address of a server. Write it as https://billing.example.com." ;;
https://?*) ;;
http://127.0.0.1 | http://127.0.0.1:* | http://localhost | http://localhost:* | http://\[::1\] | http://\[::1\]:*) direct='*' ;;
*) wrong "API_URL would send ADMIN_SECRET unencrypted. Use https; plain http is for 127.0.0.1 and localhost only." ;;
esac
end=$(($(date +%s) + timeout)) answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# ask SECONDS METHOD PATH [BODY]: retry that long while the server does not answer. The secret is on no command line, and
# no redirect, ~/.curlrc or proxy (for this machine) leads it elsewhere.
ask() {
    status=$(printf 'X-Admin-Secret: %s\n' "$ADMIN_SECRET" | curl --disable --silent --globoff --noproxy "$direct" --request "$2" \
        --retry 99999 --retry-all-errors --retry-delay 3 --retry-max-time "$1" --max-time 60 --max-filesize 10000000 --header @- \
        --header 'Content-Type: application/json' ${4:+--data "$4"} --output "$answer" --write-out '%{http_code}' "$url$3") || status=000
}
# value NAME: its first value in the answer, on one line that neither a terminal nor a CI system takes for a command.
value() { tr -c ' -~' ' ' <"$answer" | sed "s/\\\\\"/'/g; s/##\[/## [/g" | grep -o "\"$1\": *\(\"[^\"]*\"\|[0-9]*\)" | head -n 1 | sed 's/^[^:]*: *"\{0,1\}//; s/"$//' | cut -c 1-400; }

until [ "$now" = SUCCESS ] || [ "$now" = FAILURE ] || [ "$now" = CANCELED ]; do
    left=$((end - $(date +%s)))
    [ "$left" -gt 0 ] || fail 1 "Not finished within $timeout s; the run continues. Run the same command to wait for it again."
    if [ -z "$now" ]; then # no run is known yet, or the server does not list it
        ask 30 POST /admin/billing/process-monthly "${month:+{\"month\": \"$month\"\}}"
        case $status-$(value status) in
        200-already_billed) echo "$(value month)  is already billed: there is nothing to do." && exit 0 ;;
        202-started | 409-already_running) month=$(value month) run=$(value run_id) ;;
        000-*) fail 1 "$url does not answer. Check the address, and that \`spell-billing serve\` runs there." ;;
        401-*) fail 1 "The server does not accept ADMIN_SECRET. Set it to what the server was started with." ;;
        *) fail 1 "HTTP $status: $(value message) $(value remedy)" ;;
        esac
        before=$said said="$month  run: $url/runs/$run"
        [ -n "$run" ] || said="$month  is being billed by a process that the server does not know; waiting for it."
        [ "$said" = "$before" ] || echo "$said"
    fi
    sleep 3
    ask "$left" GET "/admin/billing/months/$month"
    [ "$status" = 200 ] || fail 1 "HTTP $status: $(value message) $(value remedy)"
    [ -z "$run" ] || now=$(tr '{}' '\n\n' <"$answer" | sed -n "/\"$run\"/s/.*\"status\": *\"\([A-Z_]*\)\".*/\1/p")
done
echo "$month  $(value state): $(value invoiced) users invoiced, $(value failed) failed, $(value held) held, $(value parked) parked, $(value pending) not sent yet, $(value skipped) skipped"
[ "$now" = SUCCESS ] || fail 1 "The run ended with $now. Its page says why: $url/runs/$run"
[ "$(value state)" = billed ] || fail 3 "$month is not billed in full. See spell-billing status --month $month."
