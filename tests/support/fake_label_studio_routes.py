# ruff: noqa: ARG001 - all routes are called alike
"""The routes of tests.support.fake_label_studio: what Label Studio 1.23.2 answers to each, as it was measured."""

import base64
import json
import uuid
import warnings
from datetime import UTC, datetime

SSRF = "URL resolves to a reserved network address (block: 127.0.0.0/8)"


class RefusedError(Exception):
    def __init__(self, status, detail, **validation):
        super().__init__(detail)
        told = {"id": str(uuid.uuid4()), "status_code": status, "version": "1.23.2", "detail": detail, "exc_info": None}
        self.status, self.body = status, told | ({"validation_errors": validation} if validation else {})


def now():
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _version(studio, request):
    return 200, {}, {"release": "1.23.2", "label-studio-os-package": {"version": "1.23.2"}}


def _token(studio, request):
    return studio.refreshed(request)


def _whoami(studio, request):
    return 200, {}, {"id": 1, "email": "someone@example.com", "active_organization": 1}


def _project_list(studio, request):
    size, page = int(request.query.get("page_size", 30)), int(request.query.get("page", 1))
    rows = list(studio.projects.values())[::-1]
    if page > 1 and (page - 1) * size >= len(rows):
        raise RefusedError(404, "Invalid page.")
    following = f"{studio.url}/api/projects/?page={page + 1}" if page * size < len(rows) else None
    here = [_shown(studio, one) for one in rows[(page - 1) * size : page * size]]
    return 200, {}, {"count": len(rows), "next": following, "previous": None, "results": here}


def _project(studio, request, number):
    row = studio.one(studio.projects, number, "Project")
    if request.method == "PATCH":
        wanted = request.body.get("model_version")
        known = {one["model_version"] for one in _of(studio, number)} | {
            one["title"] for one in studio.backends.values()
        }
        if wanted and wanted not in known:
            told = "Model version doesn't exist either as live model or as static predictions."
            raise RefusedError(400, "Validation error", model_version=[told])
        row |= request.body
    return 200, {}, _shown(studio, row)


def _shown(studio, project):
    tasks = sum(one["project"] == project["id"] for one in studio.tasks.values())
    return project | {"task_number": tasks, "evaluate_predictions_automatically": False, "is_published": False}


def _versions(studio, request, number):
    studio.one(studio.projects, number, "Project")
    counts = {}
    for one in _of(studio, number):
        counts[one["model_version"]] = counts.get(one["model_version"], 0) + 1
    return 200, {}, counts


def _of(studio, project):
    return [one for one in studio.stored.values() if one["project"] == project]


def _import(studio, request, number):
    studio.one(studio.projects, number, "Project")
    return 201, {}, {"task_count": len(studio.add_tasks(number, [one.get("data", one) for one in request.body]))}


def _task_list(studio, request):
    project = int(request.query["project"])
    studio.one(studio.projects, project, "Project")
    query = json.loads(request.query.get("query", "{}"))
    rows = [one for one in studio.tasks.values() if one["project"] == project]
    for rule in query.get("filters", {}).get("items", ()):
        rows = [one for one in rows if _passes(studio, rule, one)]
    size, page = int(request.query.get("page_size", 100)), int(request.query.get("page", 1))
    if page > 1 and (page - 1) * size >= len(rows):
        raise RefusedError(404, "Invalid page.")
    here = [_task_shown(studio, one) for one in rows[(page - 1) * size : page * size]]
    predictions = sum(len(studio.predictions(one["id"])) for one in rows)
    return 200, {}, {"total_annotations": 0, "total_predictions": predictions, "total": len(rows), "tasks": here}


def _passes(studio, rule, task):
    what, value = (rule["filter"], rule["operator"]), rule["value"]
    if what == ("filter:tasks:id", "greater"):
        return task["id"] > value
    if what == ("filter:tasks:predictions_model_versions", "not_contains"):
        return not any(one in (p["model_version"] or "") for one in value for p in studio.predictions(task["id"]))
    raise RefusedError(400, f"the stand-in knows no filter {what}")


def _task_shown(studio, task):
    versions = [one["model_version"] for one in studio.predictions(task["id"])]
    return {
        "inner_id": task["id"],
        "total_predictions": len(versions),
        "predictions_model_versions": ",".join(versions),
        "meta": {},
        "is_labeled": False,
        **task,
    }


def _task(studio, request, number):
    task = studio.one(studio.tasks, number, "Task")
    return 200, {}, _task_shown(studio, task) | {"predictions": studio.predictions(number), "annotations": []}


def _resolve(studio, request, number):
    uri = base64.urlsafe_b64decode(request.query["fileuri"]).decode()
    found = studio.files.get((number, uri))
    if found is None:
        return 404, {}, b""
    return (200, {}, found) if isinstance(found, bytes) else (303, {"Location": found}, b"")


def _file(studio, request):
    full = request.path + ("?" + "&".join(f"{k}={v}" for k, v in request.query.items()) if request.query else "")
    found = studio.files.get(full, studio.files.get(request.path))
    return (404, {}, b"") if found is None else (200, {"Content-Type": "application/octet-stream"}, found)


def _predictions(studio, request):
    for name, rows in (("task", studio.tasks), ("project", studio.projects)):
        if name in request.query and int(request.query[name]) not in rows:
            told = "Select a valid choice. That choice is not one of the available choices."
            raise RefusedError(400, "Validation error", **{name: [told]})
    wanted = {name: int(request.query[name]) for name in ("task", "project") if name in request.query}
    return 200, {}, [one for one in studio.stored.values() if all(one[key] == wanted[key] for key in wanted)]


def _predict(studio, request):
    body = request.body
    if body.get("task") not in studio.tasks:
        told = f'Invalid pk "{body.get("task")}" - object does not exist.'
        raise RefusedError(400, "Validation error", task=[told])
    if not isinstance(body.get("result"), list) or not all(isinstance(one, dict) for one in body["result"]):
        told = "Each item in prediction result should be dict"
        raise RefusedError(400, "Validation error", non_field_errors=[told])
    if studio.validates and (wrong := _wrong(studio, body)):
        raise RefusedError(400, "Validation error", non_field_errors=[f"Error validating prediction: {wrong}"])
    return 201, {}, _store(studio, body)


def _wrong(studio, body):
    with warnings.catch_warnings(action="ignore"):  # as it is imported, of pydantic
        from label_studio_sdk.label_interface import LabelInterface  # noqa: PLC0415

    config = studio.projects[studio.tasks[body["task"]]["project"]]["label_config"]
    return LabelInterface(config).validate_prediction(body, return_errors=True)


def _store(studio, body):
    row = {
        "result": body["result"],
        "score": body.get("score"),
        "model_version": body.get("model_version", ""),
        "task": body["task"],
        "project": studio.tasks[body["task"]]["project"],
        "created_at": now(),
    }
    return studio.add(studio.stored, "prediction", row)


def _prediction(studio, request, number):
    row = studio.one(studio.stored, number, "Prediction")
    if request.method == "DELETE":
        del studio.stored[number]
        return 204, {}, b""
    if request.method == "PATCH":
        row |= {key: request.body[key] for key in ("result", "score", "model_version") if key in request.body}
    return 200, {}, row


def _import_predictions(studio, request, number):
    """Not idempotent, without ids; refuses all for one deleted task, and drops the invalid without a word."""
    for one in request.body:
        if studio.tasks.get(one["task"], {}).get("project") != number:
            told = f'{one} contains invalid "task" field: corresponding task ID couldn\'t be retrieved'
            raise RefusedError(400, "Validation error", non_field_errors=[told])
    valid = [one for one in request.body if not _wrong(studio, one)]
    for one in valid:
        _store(studio, one)
    return 201, {}, {"created": len(valid)}


def _backend_list(studio, request):
    project = int(request.query["project"])
    studio.one(studio.projects, project, "Project")
    return 200, {}, [_without_password(one) for one in studio.backends.values() if one["project"] == project]


def _connect(studio, request):
    """As measured: SSRF protection may come after the row was made, and then there is no webhook."""
    if studio.ssrf == "backend":
        raise RefusedError(403, SSRF)
    project = studio.one(studio.projects, request.body["project"], "Project")
    made = {"title": "", "extra_params": None, "is_interactive": False, "auth_method": "NONE", "timeout": 100.0}
    made |= {"state": "CO", "readable_state": "Connected", "error_message": None, "model_version": None}
    row = studio.add(studio.backends, "backend", made | {"auto_update": True, "created_at": now()} | request.body)
    if not project["model_version"]:
        project["model_version"] = row["title"]
    if studio.ssrf == "webhook":
        raise RefusedError(403, SSRF)
    hook = {"url": row["url"].rstrip("/") + "/webhook", "project": row["project"], "headers": {}, "actions": []}
    more = {"send_payload": True, "send_for_all_actions": True, "is_active": True}
    studio.add(studio.hooks, "hook", hook | more)
    return 201, {}, _without_password(row)


def _backend(studio, request, number):
    row = studio.one(studio.backends, number, "MLBackend")
    if request.method == "DELETE":
        del studio.backends[number]
        return 204, {}, b""
    if request.method == "PATCH":
        row |= request.body
    return 200, {}, _without_password(row)


def _hook_list(studio, request):
    if request.method == "POST":
        made = {"headers": {}, "actions": [], "send_payload": True, "send_for_all_actions": True, "is_active": True}
        return 201, {}, studio.add(studio.hooks, "hook", made | request.body)
    project = request.query.get("project")
    return 200, {}, [one for one in studio.hooks.values() if project is None or one["project"] == int(project)]


def _hook(studio, request, number):
    row = studio.one(studio.hooks, number, "Webhook")
    if request.method == "DELETE":
        del studio.hooks[number]
        return 204, {}, b""
    if request.method == "PATCH":
        row |= request.body
    return 200, {}, row


def _storage_list(studio, request):
    project = int(request.query["project"])
    return 200, {}, [one for one in studio.storages if one["project"] == project]


def _without_password(backend):
    """A backend as it is shown: whether there is a password, never which."""
    shown = {name: value for name, value in backend.items() if name != "basic_auth_pass"}
    return shown | {"basic_auth_pass_is_set": bool(backend.get("basic_auth_pass"))}


ROUTES = [
    (method, pattern, function, open_to_all)
    for methods, pattern, function, open_to_all in [
        ("GET", r"/api/version/?", _version, True),
        ("POST", r"/api/token/refresh/", _token, True),
        ("GET", r"/api/current-user/whoami", _whoami, False),
        ("GET", r"/api/projects/?", _project_list, False),
        ("GET PATCH", r"/api/projects/(\d+)/?", _project, False),
        ("GET", r"/api/projects/(\d+)/model-versions/", _versions, False),
        ("POST", r"/api/projects/(\d+)/import", _import, False),
        ("POST", r"/api/projects/(\d+)/import/predictions", _import_predictions, False),
        ("GET", r"/api/tasks/?", _task_list, False),
        ("GET", r"/api/tasks/(\d+)/?", _task, False),
        ("GET", r"/api/predictions/?", _predictions, False),
        ("POST", r"/api/predictions/?", _predict, False),
        ("GET PATCH DELETE", r"/api/predictions/(\d+)/", _prediction, False),
        ("GET", r"/api/ml/?", _backend_list, False),
        ("POST", r"/api/ml/?", _connect, False),
        ("GET PATCH DELETE", r"/api/ml/(\d+)", _backend, False),
        ("GET POST", r"/api/webhooks/", _hook_list, False),
        ("GET PATCH DELETE", r"/api/webhooks/(\d+)/", _hook, False),
        ("GET", r"/api/storages/s3/?", _storage_list, False),
        ("GET", r"/tasks/(\d+)/(?:resolve|presign)/", _resolve, False),
        ("GET", r"/(?:data|storage-data)/.*", _file, False),
    ]
    for method in methods.split()
]
