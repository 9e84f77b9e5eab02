"""Apps on the virtual phone: `pm`, `am`, `run-as`, `pidof` and `app_process` as its shell knows them.

There is no Android in it: the app that `am start` begins is the same core on a JVM of this machine, with ONNX Runtime's
library for it (build/app/bundle/desk). It reads the real plan and writes the real row; what it measures is this
machine.
"""

from __future__ import annotations

from pathlib import Path

# Installing reads the name out of the APK and checks its signature, with the tools that Android's own are built from.
PM = """#!/bin/sh
case "$1" in
  install)
    for apk; do :; done
    [ -e "$PHONE/answers/install-refusal" ] && { cat "$PHONE/answers/install-refusal"; exit 1; }
    apksigner verify "$apk" >/dev/null 2>&1 || { echo "Failure [INSTALL_PARSE_FAILED_NO_CERTIFICATES]"; exit 1; }
    name=$(aapt dump badging "$apk" 2>/dev/null | sed -n "s/^package: name='\\([^']*\\)'.*/\\1/p")
    mkdir -p "$PHONE/data/data/$name/files" "$PHONE/data/app/$name"
    cp "$apk" "$PHONE/data/app/$name/base.apk"
    echo Success ;;
  path) [ -e "$PHONE/data/app/$2/base.apk" ] && echo "package:/data/app/$2/base.apk" ;;
  uninstall)
    [ -e "$PHONE/data/app/$2/base.apk" ] || { echo "Failure [DELETE_FAILED_INTERNAL_ERROR]"; exit 1; }
    rm -rf "$PHONE/data/app/$2" "$PHONE/data/data/$2"; echo Success ;;
esac
"""

AM = """#!/bin/sh
pid() { cat "$PHONE/data/app/$1/pid" 2>/dev/null; }
case "$1" in
  force-stop) kill -9 $(pid "$2") 2>/dev/null; rm -f "$PHONE/data/app/$2/pid"; exit 0 ;;
  start) ;;
  *) echo "unknown command $1" >&2; exit 1 ;;
esac
while [ $# -gt 0 ]; do
  case "$1" in -n) name=$2; shift ;; --es) plan=$3; shift 2 ;; esac
  shift
done
package=${name%%/*}
if ! aapt list -a "$PHONE/data/app/$package/base.apk" 2>/dev/null | grep -q "\\"${name#*/}\\""; then
  echo "Error type 3"; echo "Error: Activity class {$name} does not exist."; exit 1
fi
cd "$PHONE/data/data/$package"
if [ -e "$PHONE/answers/app-dies" ]; then set -- sleep 0.2; else
  set -- java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$(cat "$PHONE/desk")/*" compressexport.core.Main \\
    "$plan" "${plan%/*}/result.json"
fi
setsid "$@" >/dev/null 2>&1 &
echo $! >"$PHONE/data/app/$package/pid"
echo "Status: ok"; echo "Activity: $name"; echo "Complete"
"""

RUN_AS = """#!/bin/sh
[ -e "$PHONE/data/app/$1/base.apk" ] || { echo "run-as: unknown package: $1" >&2; exit 1; }
cd "$PHONE/data/data/$1"
shift
exec "$@"
"""

PIDOF = """#!/bin/sh
pid=$(cat "$PHONE/data/app/$1/pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null && echo "$pid"
"""

# The class path is of dexed code, as on a phone; a JVM takes the same classes from the desk's jars.
APP_PROCESS = """#!/bin/sh
unzip -l "$CLASSPATH" | grep -q classes.dex || { echo "no dexed code in $CLASSPATH" >&2; exit 1; }
library=${1#-Djava.library.path=}
[ -e "$library/libonnxruntime.so" ] || { echo "dlopen failed: no libonnxruntime.so in $library" >&2; exit 1; }
unset CLASSPATH LD_LIBRARY_PATH
shift 2
exec java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$(cat "$PHONE/desk")/*" "$@"
"""

LOGCAT = """#!/bin/sh
echo "11-20 09:41:00.000   812   812 I lowmemorykiller: Kill 'compressexport.bench' (4242), uid 10123"
"""

PROGRAMS = {"pm": PM, "am": AM, "run-as": RUN_AS, "pidof": PIDOF, "app_process": APP_PROCESS, "logcat": LOGCAT}


def install_programs(root: Path, desk: Path) -> None:
    """Lets the phone whose folder is `root` know apps, which the jars in `desk` run."""
    (root / "desk").write_text(str(desk))
    for name, text in PROGRAMS.items():
        program = root / "system" / "bin" / name
        program.write_text(text)
        program.chmod(0o755)
