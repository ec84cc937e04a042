"""Checks KubeRay's manifests: our own record of the fields that they use, and the official client's models of a pod."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

WHOLE, TEXT, FLAG, NUMBERED = "integer", "string", "boolean", "object"


def fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """JSON schema of an object with these fields and no others."""
    as_schemas = {name: {"type": kind} if isinstance(kind, str) else kind for name, kind in properties.items()}
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": as_schemas}


def choice(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
ANY = {"type": "object"}  # checked by the client's models
AUTOSCALER = fields(
    version=choice("v1", "v2"),
    idleTimeoutSeconds=WHOLE,
    upscalingMode=choice("Default", "Aggressive", "Conservative"),
    env={"type": "array", "items": fields(("name",), name=TEXT, value=TEXT)},
    resources=ANY,
)
GROUP = fields(
    ("groupName", "maxReplicas", "minReplicas", "template"),
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    priority=WHOLE,
    idleTimeoutSeconds=WHOLE,
    rayStartParams=TEXTS,
    template=ANY,
)
CLUSTER = fields(
    ("headGroupSpec",),
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    authOptions=fields(mode=choice("disabled", "token"), secretName=TEXT),
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=fields(("template",), serviceType=TEXT, rayStartParams=TEXTS, template=ANY),
    workerGroupSpecs={"type": "array", "items": GROUP},
)
JOB = fields(
    entrypoint=TEXT,
    backoffLimit=WHOLE,
    submissionMode=choice("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=WHOLE,
    runtimeEnvYAML=TEXT,
    rayClusterSpec=CLUSTER,
)
"""The fields of KubeRay's CustomResourceDefinitions (1.7.0) that the manifests use, with their types."""


def manifest(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of a whole manifest."""
    header = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}}
    return fields(
        ("apiVersion", "kind", "metadata", "spec"), **header, metadata=fields(("name",), name=TEXT), spec=spec
    )


def pod_faults(template: Any, model: str = "V1PodTemplateSpec", place: str = "template") -> Iterator[str]:
    """Unknown and missing fields and wrong types of a pod template, by the models of Kubernetes' official client."""
    from kubernetes import client

    if match := re.fullmatch(r"[Ll]ist\[(.*)\]", model):
        if not isinstance(template, list):
            yield f"{place}: not a list"
            return
        for number, item in enumerate(template):
            yield from pod_faults(item, match[1], f"{place}.{number}")
    elif match := re.fullmatch(r"[Dd]ict[\[(]str, (.*)[\])]", model):
        for key, value in template.items():
            yield from pod_faults(value, match[1], f"{place}.{key}")
    elif model in ("str", "int", "bool", "object"):
        kinds = {"str": str, "int": int, "bool": bool, "object": object}
        if not isinstance(template, kinds[model]) or (model == "int" and isinstance(template, bool)):
            yield f"{place}: found {template!r}, not {model}"
    else:
        model_class = getattr(client, model)
        python_names = {spelled: name for name, spelled in model_class.attribute_map.items()}
        for key, value in template.items():
            if key not in python_names:
                yield f"{place}.{key}: {model} has no such field"
            else:
                yield from pod_faults(value, model_class.openapi_types[python_names[key]], f"{place}.{key}")
        arguments = {python_names[key]: value for key, value in template.items() if key in python_names}
        try:
            model_class(**arguments)  # the client refuses a missing field
        except ValueError as error:
            yield f"{place}: {error}"
