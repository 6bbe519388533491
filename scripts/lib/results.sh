# shellcheck shell=bash
# Sourced after project.sh: reads what cargo's test harness printed and keeps the account of layers.
#
# A layer cannot pass by silence: one that fails without a failed test, ends in the middle of a test
# binary or runs no test at all counts as a failure.

summary=() failures=()
total_passed=0 total_failed=0 total_ignored=0

# count_results LOG : prints "PASSED FAILED IGNORED UNFINISHED", summed over the test binaries in LOG.
# UNFINISHED counts those that announced their tests and never gave a result.
count_results() {
  sed "s/$(printf '\033')\[[0-9;]*m//g" "$1" | awk '
    /^running [0-9]+ tests?$/ { announced++ }
    /^test result: / {
      results++
      for (i = 2; i <= NF; i++) {
        if ($i == "passed;") passed += $(i - 1)
        if ($i == "failed;") failed += $(i - 1)
        if ($i == "ignored;") ignored += $(i - 1)
      }
    }
    END {
      unfinished = announced > results ? announced - results : 0
      print passed + 0, failed + 0, ignored + 0, unfinished
    }'
}

# list_failures LOG : prints the name of each failed test in LOG, what ended in the middle of its tests, the first panics of each
# in a line, and the lines that say how to repeat a random test. The harness lists the names after all that the tests have printed.
list_failures() {
  sed "s/$(printf '\033')\[[0-9;]*m//g" "$1" | awk '
    function show(text) { print (part == "" ? text : part ": " text) }
    function leave() {
      if (running) {
        for (i = 1; i <= failed; i++) show(early[i])
        show(binary " (ended in the middle of its tests)")
      }
      running = failed = 0
    }
    function show_panic() {
      if (panic != "") show(substr(panic, 1, 400))
      panic = ""
    }
    # Tests print such lines too.
    /^--- Envoy [0-9.]+$/ { leave(); part = substr($0, 5) }
    /^ +(Running|Doc-tests) / { leave(); binary = $2 == "unittests" ? $3 : $2 }
    /^running [0-9]+ tests?$/ { leave(); running = 1; listed = 0 }
    # There is no list if the program ends in the middle.
    /^test [^ ]+( - .*)? \.\.\. FAILED$/ { early[++failed] = $2 }
    /^failures:$/ { listed = 0; lists = 1; next }
    /^---- .+ stdout ----$/ { panics = 0 }
    # Its message ends with the first of these.
    /^$|^note: |^stack backtrace:|^--- / { show_panic() }
    panic != "" { panic = panic " " $0 }
    /^thread .* panicked at / && ++panics <= 3 { panic = substr($0, index($0, "panicked at ")) }
    lists && /^    [^ ]+( - .*)?$/ { names[++listed] = $1 }
    /^test result: / {
      if (/^test result: FAILED/) for (i = 1; i <= listed; i++) show(names[i])
      running = lists = listed = failed = 0
    }
    /[Tt]o repeat: / && !said[$0]++ { sub(/^.*[Tt]o repeat: /, "to repeat: "); show($0) }
    END { show_panic(); leave() }'
}

# record_tests LAYER STATUS SECONDS LOG : a layer that runs tests.
record_tests() {
  local passed failed ignored unfinished note=
  read -r passed failed ignored unfinished < <(count_results "$4")
  if [ "$unfinished" -gt 0 ]; then
    failed=$((failed + unfinished)) note="ended in the middle of a test binary"
  elif [ "$2" -ne 0 ] && [ "$failed" -eq 0 ]; then
    failed=1 note="stopped with status $2 before or beside its tests"
  elif [ $((passed + failed)) -eq 0 ]; then
    failed=1 note="ran no test"
  fi
  record "$1" "$passed" "$failed" "$ignored" "$3" "$note"
  [ "$failed" -eq 0 ] || record_failures "$1" "$note" "$4"
}

# record_failures LAYER NOTE LOG
record_failures() {
  local failure count=${#failures[@]}
  while read -r failure; do failures+=("$1  $failure"); done < <(list_failures "$3")
  [ ${#failures[@]} -gt "$count" ] || failures+=("$1  ${2:-see $3}")
}

# record_step LAYER STATUS SECONDS : a layer that only prepares; it counts when it fails.
record_step() {
  local failed=0 note=
  [ "$2" -eq 0 ] || failed=1 note="stopped with status $2"
  record "$1" 0 "$failed" 0 "$3" "$note"
  [ -z "$note" ] || failures+=("$1  $note")
}

record() {
  total_passed=$((total_passed + $2))
  total_failed=$((total_failed + $3))
  total_ignored=$((total_ignored + $4))
  summary+=("$(printf '%-10s %8s %8s %8s %8s  %s' "$@")")
}

# print_summary : the table, what failed, and last the line that scripts and people read. Fails if a test failed.
#
# FAILURES may name a file, which collects what fails in several runs and begins with what failed elsewhere. The last of them
# shows all of it, so that the end of a long log says everything.
print_summary() {
  local failure line="$total_passed passed, $total_failed failed"
  [ "$total_ignored" -eq 0 ] || line="$line, $total_ignored skipped"
  say "" "$(printf '%-10s %8s %8s %8s %8s' layer passed failed ignored seconds)"
  printf '%s\n' "${summary[@]}" | sed 's/ *$//'
  if [ -n "${FAILURES:-}" ] && [ -f "$FAILURES" ]; then
    while IFS= read -r failure; do failures+=("$failure"); done <"$FAILURES"
  fi
  if [ ${#failures[@]} -gt 0 ]; then
    say "" "failed:" "${failures[@]/#/  }"
    [ -z "${FAILURES:-}" ] || printf '%s\n' "${failures[@]}" >"$FAILURES"
  fi
  say "" "$line"
  [ "$total_failed" -eq 0 ]
}
