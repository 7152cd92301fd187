# Ends whatever runs in a folder, and the folder, once nobody holds this shell's standard input any more, even after
# kill -9. Patroni gives PostgreSQL a session of its own, so neither parents nor process groups tell what belongs
# together; but everything here works in this folder, or below.
folder=$1
while read -r _; do :; done
while :; do
    found=
    for process in /proc/[0-9]*; do
        case $(readlink "$process/cwd" 2>/dev/null) in
            "$folder" | "$folder"/*) found=yes && kill -s KILL "${process#/proc/}" 2>/dev/null ;;
        esac
    done
    [ -n "$found" ] || break
    sleep 0.05
done
rm -rf -- "$folder"
