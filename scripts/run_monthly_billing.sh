#!/bin/sh
# Bills a month on a server that runs `spell-billing serve`, and waits until it is done:
#   ADMIN_SECRET=... API_URL=https://billing.example.com scripts/run_monthly_billing.sh [YYYY-MM]
# Without a month the server bills the last closed one. It needs nothing but curl, and may be run again at any
# time: a month that is being billed is waited for, one that is billed is left alone.
# Ends with 0: everyone is billed; 3: users are left without an invoice; 1: it could not run, or the run failed;
# 2: wrong usage. TIMEOUT_SECONDS (default 43200) bounds the waiting; the run goes on without it.
set -eu
export LC_ALL=C

wrong_usage() {
    echo "Error: $1" >&2
    exit 2
}

fail() {
    echo "Error: $1" >&2
    exit 1
}

month=${1:-}
[ $# -le 1 ] || wrong_usage "Give one month at most, as 2026-10."
case $month in
'' | [0-9][0-9][0-9][0-9]-0[1-9] | [0-9][0-9][0-9][0-9]-1[0-2]) ;;
*) wrong_usage "That is not a month. Write it as YYYY-MM, for example 2026-10." ;;
esac

# What is wrong with these is not repeated: a secret may have been pasted into the wrong one.
[ -n "${ADMIN_SECRET:-}" ] || wrong_usage "ADMIN_SECRET is not set. Set it to the secret of the server."
case $ADMIN_SECRET in
*[!!-~]*) wrong_usage "ADMIN_SECRET has a character that no HTTP header carries safely." ;;
esac
[ -n "${API_URL:-}" ] || wrong_usage "API_URL is not set. Set it to the server's address, as https://billing.example.com."
API_URL=${API_URL%/}
host=${API_URL#*://}
case $host in
'' | *[!]A-Za-z0-9.:_[-]*) wrong_usage "API_URL is not the address of a server. Write it as https://billing.example.com." ;;
esac
no_proxy_for=
case $API_URL in
https://*) ;;
http://127.0.0.1 | http://127.0.0.1:* | http://localhost | http://localhost:* | http://\[::1\] | http://\[::1\]:*)
    # A proxy would get the secret in the clear.
    no_proxy_for='*'
    ;;
*) wrong_usage "API_URL would send ADMIN_SECRET unencrypted. Use https; plain http is for 127.0.0.1 and localhost only." ;;
esac
timeout_seconds=${TIMEOUT_SECONDS:-43200}
case $timeout_seconds in
'' | *[!0-9]* | ??????????*) wrong_usage "TIMEOUT_SECONDS is not a number of seconds." ;;
esac

patience_seconds=30
began=$(date +%s)
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
trap 'exit 1' HUP INT TERM

seconds_since_begin() {
    echo $(($(date +%s) - began))
}

# request METHOD PATH [BODY]: sets $status to HTTP's, 000 where there was no answer; the body is in $answer.
# The secret goes through a pipe: what stands on a command line is seen by everybody on the machine. Neither a
# redirect nor a ~/.curlrc can lead it elsewhere.
request() {
    status=$(printf 'X-Admin-Secret: %s\n' "$ADMIN_SECRET" | curl --disable --silent --globoff \
        --noproxy "$no_proxy_for" --connect-timeout 10 --max-time 60 --max-filesize 10000000 \
        --header @- --header 'Content-Type: application/json' --header 'Accept: application/json' \
        --request "$1" ${3+--data "$3"} --output "$answer" --write-out '%{http_code}' "$API_URL$2") ||
        status=000
}

# patiently SECONDS METHOD PATH [BODY]: the same, again and again while the server does not answer.
patiently() {
    patience=$1
    shift
    waited=0
    pause=1
    lost=
    while :; do
        : >"$answer"
        request "$@"
        case $status in
        000 | 408 | 425 | 429 | 500 | 502 | 503 | 504) ;;
        *)
            [ -z "$lost" ] || echo "The server answers again."
            return 0
            ;;
        esac
        [ -n "$lost" ] || echo "The server does not answer (HTTP $status); asking again."
        lost=yes
        waited=$((waited + pause))
        [ "$waited" -le "$patience" ] && [ "$(seconds_since_begin)" -lt "$timeout_seconds" ] || return 0
        sleep "$pause"
        pause=$((pause * 2))
        [ "$pause" -le 15 ] || pause=15
    done
}

# word NAME: the first text of that name in the answer, of letters, digits, - and _ only.
word() {
    tr '{},[' '\n\n\n\n' <"$answer" | sed -n "s/^ *\"$1\" *: *\"\([A-Za-z0-9_-]*\)\".*/\1/p" | head -n 1
}

number() {
    tr '{},[' '\n\n\n\n' <"$answer" | sed -n "s/^ *\"$1\" *: *\([0-9]*\).*/\1/p" | head -n 1
}

# sentence NAME: a text of that name in the answer, on one line that no terminal and no CI takes for a command.
sentence() {
    tr -c ' -~' ' ' <"$answer" | sed "s/\\\\\"/'/g; s/##\[/## [/g" |
        sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p" | cut -c 1-400
}

refused() {
    case $status in
    000) fail "$API_URL does not answer. Check the address, and that \`spell-billing serve\` runs there." ;;
    401) fail "The server does not accept ADMIN_SECRET. Set it to what the server was started with." ;;
    esac
    message=$(sentence message)
    [ -n "$message" ] || fail "What answers at $API_URL is not spell-billing (HTTP $status)."
    fail "$message $(sentence remedy)"
}

# The run's status by the server, empty where the server does not list it.
run_status() {
    tr '{},[' '\n\n\n\n' <"$answer" | sed -n "/^ *\"id\" *: *\"$run\"/,\$p" |
        sed -n 's/^ *"status" *: *"\([A-Z_]*\)".*/\1/p' | head -n 1
}

time_left() {
    [ "$(seconds_since_begin)" -lt "$timeout_seconds" ] ||
        fail "Not done within $timeout_seconds s; what was launched goes on. The same command waits for it again."
}

# Asks for the month until it is billed, or a run of it is known; sets $month and $run.
start() {
    while :; do
        body=
        [ -z "$month" ] || body="{\"month\": \"$month\"}"
        patiently "$patience_seconds" POST /admin/billing/process-monthly "$body"
        outcome=$(word status)
        case $status-$outcome in
        200-already_billed | 202-started | 409-already_running) ;;
        *) refused ;;
        esac
        month=$(word month)
        run=$(word run_id)
        case $outcome in
        already_billed)
            echo "$month  is billed already: nothing is to be done."
            exit 0
            ;;
        started)
            echo "$month  launched: $API_URL/runs/$run"
            return 0
            ;;
        esac
        if [ -n "$run" ]; then
            echo "$month  has a run under way, no other is started: $API_URL/runs/$run"
            return 0
        fi
        echo "$month  is being billed by a process that the server does not know; waiting for it."
        sleep 5
        time_left
    done
}

start
before=
pause=1
while :; do
    patiently "$timeout_seconds" GET "/admin/billing/months/$month"
    [ "$status" = 200 ] || refused
    now=$(run_status)
    if [ "$now" != "$before" ]; then
        echo "$month  run $(echo "${now:-not listed}" | tr '[:upper:]' '[:lower:]')"
        before=$now
        pause=1
    fi
    case $now in
    SUCCESS | FAILURE | CANCELED) break ;;
    esac
    time_left
    sleep "$pause"
    [ "$pause" -ge 10 ] || pause=$((pause + 1))
    # A run of assets alone is no run of the job: asking for the month tells whether it is still under way.
    [ -n "$now" ] || start
done

state=$(word state)
echo "$month  ${state}: $(number invoiced) users invoiced, $(number failed) failed, $(number held) held," \
    "$(number parked) parked, $(number pending) not sent yet, $(number skipped) skipped"
[ "$now" = SUCCESS ] || fail "The run ended with $now. Its page says why: $API_URL/runs/$run"
case $state in
billed) ;;
partial)
    echo "Users are left without an invoice; spell-billing invoices --month $month names them." >&2
    exit 3
    ;;
in_review)
    echo "Nothing was sent: $month waits for its approval; spell-billing status --month $month says why." >&2
    exit 3
    ;;
*) fail "The run succeeded, but the ledger does not show $month as billed. See spell-billing status." ;;
esac
