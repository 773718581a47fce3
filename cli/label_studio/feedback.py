"""`car label-studio feedback`: how annotators changed the masks."""

from cli.label_studio.options import Project, print_status, service
from cli.options import DATA_DIR, AsJsonLines, DataFolder, FormatOption, OutputFormat, output_format


def feedback(
    project: Project,
    *,
    output: FormatOption = OutputFormat.TABLE,
    as_json: AsJsonLines = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Show how often masks were kept, changed or deleted, by label and its prompts."""
    from cli.label_studio.tables import feedback_table
    from cli.output.listing import UNLIMITED, print_list

    with service(data_dir) as opened:
        labels = opened.feedback(project)
    print_list(lambda most: labels[:most], feedback_table, output=output_format(output, as_json), limit=UNLIMITED - 1)
    if not labels:
        print_status("no annotation has been submitted yet, or the webhook fails: run `car doctor --project N`")
