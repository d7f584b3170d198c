#!/usr/bin/env bash
# The same without a scheduler: one shard on every host named, over ssh, then the sum on this machine.
#
#   MODEL=/models/OLMoE TEXT=/data/calibration.txt OUT=profile.h5 packaging/examples/ssh-profile.sh box1 box2 box3
#
# MODEL and TEXT are paths on the hosts (a shared file system, or copies: the engine compares their hashes when the shards are added up).
# Every host needs espalier-engine on its PATH, or ESPALIER_ENGINE. REMOTE=ssh can be any program that takes a host and a command.
set -euo pipefail
: "${MODEL:?the checkpoint folder}" "${TEXT:?the calibration text}" "${OUT:?the profile to write}"
[ $# -gt 0 ] || { echo "usage: $0 HOST.." >&2; exit 2; }
engine=${ESPALIER_ENGINE:-espalier-engine}
remote=${REMOTE:-ssh}
read -ra more <<< "${ARGS:-}"  # further options of `profile`, such as --window-length 2048 --windows 128
hosts=("$@")
quoted() { printf '%q ' "$@"; }

tasks=()
for i in "${!hosts[@]}"; do
    part=$((i + 1))
    # The part is written on the host and comes back as a stream, so nothing needs to be shared but model and text.
    command="out=\$(mktemp -d) && $(quoted "$engine" profile "$MODEL" --text "$TEXT" --collect "${COLLECT:-counts,ean,reap,gram}" \
        "${more[@]}" --shard "$part/${#hosts[@]}" --quiet) --out \"\$out/part.h5\" >&2 && cat \"\$out/part.h5\" && rm -r \"\$out\""
    [ -s "$OUT.$part" ] && { echo "$OUT.$part is there already, ${hosts[i]} is not asked" >&2; continue; }
    { "$remote" "${hosts[i]}" "$command" > "$OUT.$part.partial" && mv "$OUT.$part.partial" "$OUT.$part"; } &
    tasks+=("$!")
done
failed=0
for task in "${tasks[@]}"; do wait "$task" || failed=1; done
[ $failed = 0 ] || { echo "A host failed. Its shard alone is measured when this is run again: finished ones are kept as $OUT.N." >&2; exit 1; }
parts=()
for i in "${!hosts[@]}"; do parts+=("$OUT.$((i + 1))"); done
"$engine" merge "$OUT" "${parts[@]}" ${MERGE_MODEL:+--model "$MERGE_MODEL"}
rm -f "${parts[@]}"
