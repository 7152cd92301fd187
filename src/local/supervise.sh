# Runs a PostgreSQL server as long as whoever started it lives.
#   $1      the server's data folder
#   $2...   the server's command line
# Each line on standard input is a signal's name, sent on to the server. The end of that input means
# that nobody owns the server any more, even after kill -9: it is stopped and its data removed. A pipe
# tells this for a whole process, where the kernel's parent-death signal tells it for one thread.
data=$1
shift
exec 3<&0 </dev/null
setpriv --pdeathsig QUIT -- "$@" 3<&- &
server=$!
(
    while read -r signal <&3; do kill -s "$signal" "$server"; done
    : >"$data.abandoned"
    kill -s QUIT "$server"
) 2>/dev/null &
watcher=$!
exec 3<&-
wait "$server"
status=$?
kill -s KILL "$watcher" 2>/dev/null
wait "$watcher" 2>/dev/null
if [ -e "$data.abandoned" ]; then
    rm -rf -- "$data" "$data.log" "$data.abandoned"
    rmdir -- "$(dirname -- "$data")" 2>/dev/null
fi
exit "$status"
