"""Labeling configurations, and plans of them, in a few words."""

from car.label_studio.project_config import build_project_config

IMAGE = '<Image name="image" value="$image"/>'


def brush(*labels, name="brush", **attributes):
    return control("BrushLabels", *labels, name=name, **attributes)


def control(tag, *labels, name="c", of="image", **attributes):
    more = "".join(f' {key}="{value}"' for key, value in attributes.items())
    inner = "".join(one if one.startswith("<") else f'<Label value="{one}"/>' for one in labels)
    if tag == "Choices":
        inner = inner.replace("<Label", "<Choice")
    return f'<{tag} name="{name}" toName="{of}"{more}>{inner}</{tag}>'


def view(*parts, image=IMAGE):
    return f"<View>{image}{''.join(parts)}</View>"


def plan(*parts, image=IMAGE, preset="demo", **params):
    return build_project_config(view(*parts, image=image), params, preset=preset)


def codes(planned):
    return [one.code for one in planned.problems]


def prompts(planned):
    return {label.name: label.prompts for label in planned.base.labels}
