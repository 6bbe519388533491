"""Applies Prometheus's `metric_relabel_configs`, as far as `replace` goes, to names of metrics.

    relabel.py CONFIGURATION NAME...

CONFIGURATION is JSON. Prints the labels of each metric as a line of JSON. A regular expression must match all of the
joined source labels.
"""

import json
import re
import sys


def main(configuration, *names):
    for name in names:
        labels = {"__name__": name}
        for rule in json.loads(configuration)["metric_relabel_configs"]:
            assert set(rule) <= {"source_labels", "regex", "target_label", "replacement"}, rule
            source = ";".join(labels.get(label, "") for label in rule["source_labels"])
            if found := re.fullmatch(rule["regex"], source):
                replacement = re.sub(r"\$(\d)", r"\\\1", rule.get("replacement", "$1"))
                labels[rule["target_label"]] = found.expand(replacement)
        print(json.dumps(labels, sort_keys=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
