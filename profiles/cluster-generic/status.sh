#!/bin/sh
# status.sh SCHEDULER JOB prints `running` (which is also waiting), `success` or `failed`.
# Slurm was tested. SGE, PBS and LSF were not run: check them against the manual of yours.
# A scheduler that does not answer says nothing of the job: it is asked again later.
scheduler=$1
job=$2

say() {
  echo "$1"
  exit
}

case $scheduler in
  slurm)
    shown=$(scontrol --oneliner show job "$job" 2>&1)
    state=$(printf '%s\n' "$shown" | sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p')
    # Forgotten after a while; then only an accounting database knows.
    case $shown in
      *'Invalid job id'*)
        command -v sacct > /dev/null || say failed
        state=$(sacct --allocations --noheader --parsable2 --format=State --jobs="$job" 2> /dev/null) || say running
        state=${state:-FORGOTTEN}
        ;;
    esac
    case $state in
      COMPLETED) say success ;;
      BOOT_FAIL | CANCELLED* | DEADLINE | FAILED | FORGOTTEN | NODE_FAIL | OUT_OF_MEMORY | TIMEOUT | \
        PREEMPTED | REVOKED | SPECIAL_EXIT)
        say failed ;;
    esac
    ;;
  sge)
    if shown=$(qacct -j "$job" 2> /dev/null); then
      case $(printf '%s\n' "$shown" | awk '$1 == "failed" || $1 == "exit_status" {print $2}' | sort -u) in
        0) say success ;;
        *) say failed ;;
      esac
    fi
    # Eqw: in the queue, and never to run.
    if qstat 2> /dev/null | awk -v job="$job" '$1 == job {print $5}' | grep -q E; then say failed; fi
    ;;
  pbs)
    shown=$(qstat -x -f "$job" 2> /dev/null)
    case $(printf '%s\n' "$shown" | sed -n 's/^ *job_state = //p') in
      F | C | X)
        case $(printf '%s\n' "$shown" | sed -n 's/^ *[Ee]xit_status = //p') in
          0) say success ;;
          *) say failed ;;
        esac
        ;;
    esac
    ;;
  lsf)
    case $(bjobs -noheader -o stat "$job" 2> /dev/null) in
      DONE) say success ;;
      EXIT | ZOMBI) say failed ;;
    esac
    ;;
  *)
    echo "status.sh: unknown scheduler $scheduler, wanted slurm, sge, pbs or lsf" >&2
    exit 2
    ;;
esac
say running
