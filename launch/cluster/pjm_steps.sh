#!/bin/bash
# Fugaku (PJM):  launch/cluster/pjm_steps.sh 10
#
# Submits so many sessions of launch/cluster/pjm.sh as one step job: each begins when the one before
# has ended with 75, which says that the run goes on. With any other exit code PJM deletes the rest.
set -euo pipefail

sessions=${1:?the first argument is the number of sessions}

submitted=$(pjsub --step launch/cluster/pjm.sh)
echo "$submitted"
job=$(sed -E 's/.* Job ([0-9]+)_[0-9]+ .*/\1/' <<< "$submitted")
for ((session = 1; session < sessions; session++)); do
  pjsub --step --sparam "jid=$job,sd=ec!=75:after" launch/cluster/pjm.sh
done
