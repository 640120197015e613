"""What kubectl asks an API server before it applies anything: which kinds there are. No object is here, and none is made."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

# Version: kind, name in addresses, whether it lies in a namespace.
KINDS = {
    "v1": [
        ("ConfigMap", "configmaps", True),
        ("Namespace", "namespaces", False),
        ("Service", "services", True),
        ("ServiceAccount", "serviceaccounts", True),
    ],
    "apps/v1": [("DaemonSet", "daemonsets", True), ("Deployment", "deployments", True)],
    "monitoring.coreos.com/v1": [("PodMonitor", "podmonitors", True)],
    "rbac.authorization.k8s.io/v1": [
        ("ClusterRole", "clusterroles", False),
        ("ClusterRoleBinding", "clusterrolebindings", False),
    ],
    "scheduling.k8s.io/v1": [("PriorityClass", "priorityclasses", False)],
}


def group(version):
    versions = {"groupVersion": version, "version": version.split("/")[1]}
    return {"name": version.split("/")[0], "versions": [versions], "preferredVersion": versions}


def resources(version):
    kinds = [
        {"kind": kind, "name": name, "singularName": "", "namespaced": inside, "verbs": ["create", "get", "patch"]}
        for kind, name, inside in KINDS[version]
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": kinds}


ANSWERS = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [group(version) for version in KINDS if "/" in version],
    },
}
for known in KINDS:
    ANSWERS[("/apis/" if "/" in known else "/api/") + known] = resources(known)

MISSING = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        answer = ANSWERS.get(self.path.split("?")[0])
        body = json.dumps(answer or MISSING).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
