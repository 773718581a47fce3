"""`car label-studio feedback`: what annotators made of the masks."""

import json

from cli.label_studio.options import Project, print_status, service
from cli.options import DATA_DIR, AsJson, DataFolder
from cli.output.terminal import echo


def feedback(project: Project, *, as_json: AsJson = False, data_dir: DataFolder = DATA_DIR) -> None:
    """How often masks were kept, changed or taken away, by label and the words it was asked as."""
    from cli.label_studio.tables import feedback_table
    from cli.output.job_tables import print_table

    with service(data_dir) as opened:
        opinions = opened.feedback(project)
    if as_json:
        for one in opinions:
            echo(json.dumps(one))
    elif opinions:
        print_table(feedback_table(opinions))
    else:
        print_status("no annotation has been submitted yet, or the webhook fails: run `car doctor --project N`")
