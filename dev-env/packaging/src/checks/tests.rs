//! Each check finds the fault that it is for, and nothing in what has none.

use super::*;

/// A rendering that has no fault.
const SOUND: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: a, namespace: ns}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r, namespace: ns}
rules:
  - {apiGroups: [''], resources: [pods], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: b, namespace: ns}
roleRef: {kind: Role, name: r}
subjects:
  - {kind: ServiceAccount, name: a, namespace: ns}
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: ns}
spec:
  selector: {app: w}
  ports: [{port: 1, targetPort: main}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: w, namespace: ns}
spec:
  selector: {matchLabels: {app: w}}
  template:
    metadata: {labels: {app: w, other: x}}
    spec:
      serviceAccountName: a
      automountServiceAccountToken: false
      containers:
        - name: c
          image: host:5000/some/image:1
          ports: [{name: main, containerPort: 1}]
          readinessProbe: {tcpSocket: {port: main}}
          resources: {requests: {cpu: 1m, memory: 1Mi}, limits: {memory: 1Mi}}
          securityContext:
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
            seccompProfile: {type: RuntimeDefault}
          volumeMounts: [{name: v, mountPath: /v}]
      volumes: [{name: v, emptyDir: {}}]
";

type CheckFn = fn(&Objects) -> Vec<String>;

fn found(check: CheckFn, yaml: &str) -> usize {
    check(&Objects::parse(yaml).expect("it is a rendering")).len()
}

#[test]
fn a_sound_rendering_has_no_findings() {
    assert_eq!(findings(&Objects::parse(SOUND).expect("it is a rendering")), [""; 0]);
}

#[test]
fn every_fault_is_found_by_the_check_that_is_for_it() {
    let faults: [(CheckFn, &str, &str); 24] = [
        (resources, "requests: {cpu: 1m, memory: 1Mi}", "requests: {cpu: 1m}"),
        (resources, "requests: {cpu: 1m, memory: 1Mi}", "requests: {memory: 1Mi}"),
        (resources, ", limits: {memory: 1Mi}", ""),
        (resources, "name: c\n", "name: fs-core\n"),
        (images, "some/image:1", "some/image"),
        (images, "some/image:1", "some/image:latest"),
        (service_accounts, "serviceAccountName: a", "serviceAccountName: none"),
        (service_accounts, "Token: false", "Token: true"),
        (roles, "verbs: [get]", "verbs: ['*']"),
        (roles, "resources: [pods]", "resources: [secrets]"),
        (roles, "apiGroups: ['']", "apiGroups: ['*']"),
        (bindings, "subjects:\n  - {kind: ServiceAccount, name: a", "subjects:\n  - {name: b"),
        (
            bindings,
            "name: a, namespace: ns}\n---\napiVersion: v1\nkind: Service\n",
            "name: a, namespace: m}\n---\napiVersion: v1\nkind: Service\n",
        ),
        (bindings, "roleRef: {kind: Role, name: r}", "roleRef: {kind: ClusterRole, name: r}"),
        (selectors, "spec:\n  selector: {app: w}", "spec:\n  selector: {app: v}"),
        (selectors, "labels: {app: w, other: x}", "labels: {app: x}"),
        (selectors, "spec:\n  selector: {app: w}", "spec:\n  selector: {}"),
        (mounts, "volumes: [{name: v,", "volumes: [{name: u,"),
        (ports, "tcpSocket: {port: main}", "tcpSocket: {port: other}"),
        (ports, "targetPort: main", "targetPort: other"),
        (privileges, "drop: [ALL]", "drop: [NET_RAW]"),
        (privileges, "type: RuntimeDefault", "type: Unconfined"),
        (privileges, "readOnlyRootFilesystem: true", "privileged: true"),
        (contents, "{name: s, namespace: ns}", "{name: s, namespace: m}"),
    ];
    for (check, sound, broken) in faults {
        assert!(SOUND.contains(sound), "the rendering has no {sound:?}");
        assert_eq!(found(check, SOUND), 0, "{sound:?}");
        assert!(found(check, &SOUND.replace(sound, broken)) > 0, "{broken:?} was not found");
    }
}

#[test]
fn a_secret_in_a_rendering_is_found() {
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: ns}\n";
    assert_eq!(found(contents, &format!("{SOUND}{secret}")), 1);
}

#[test]
fn a_role_that_nobody_has_is_found() {
    let role = "---\napiVersion: v1\nkind: ClusterRole\nmetadata: {name: other}\n";
    assert_eq!(found(bindings, &format!("{SOUND}{role}")), 1);
}
