#!/bin/bash
# Prepares a corpus by bulk jobs of PJM, a task a sub-job; each phase waits for the one before:
#   for phase in clean:0-999 compare:0-999 link:0-0 write:0-999; do
#     pjsub --bulk --sparam ${phase#*:} -x RECIPE=fugaku_llm,ROOT=sets,OUT=corpus,PHASE=${phase%:*} corpus_pjm.sh
#   done
# How many tasks there are: `data.py prepare` says it when asked for a rank beyond them. What failed is
# run again by the same call; `data.py prepare RECIPE --root ROOT --out OUT` then writes the mixture.
#PJM -L node=1
#PJM -L elapse=01:00:00
#PJM -j
exec python "$(dirname "$0")/../data.py" prepare "$RECIPE" --root "$ROOT" --out "$OUT" \
  --phase "$PHASE" --rank "$PJM_BULKNUM"
