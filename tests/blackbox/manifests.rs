//! The examples for clusters: held against the schemas of Kubernetes, read as Nomad would, and the file
//! in each is one that the program takes.

use std::process::{Command, Stdio};

use crate::common::{World, var};
use crate::support::repository;

fn python(script: &str, file: &str) -> String {
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(repository(file)).env("PYTHONPATH", var("PGVIGIL_TEST_MANIFESTS"));
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The file passes `check --offline`, but for secrets that are not here.
fn is_taken(text: &str) {
    let world = World::new();
    std::fs::write(world.config(), text).unwrap();
    let ran = world.pgvigil(&["--json", "check", "--offline"]);
    let lines = ran.json().as_array().unwrap().clone();
    let faults: Vec<_> = lines.iter().filter(|line| line["level"] == "error" && line["subject"] != "secrets").collect();
    assert!(lines.len() > 1 && faults.is_empty(), "{ran:#?}");
}

#[test]
fn the_example_for_kubernetes() {
    let script = "import sys, yaml, kubernetes_validate as k
documents = list(yaml.safe_load_all(open(sys.argv[1])))
assert [d['kind'] for d in documents] == ['ConfigMap', 'CronJob']
for version in ('1.29', '1.37'):
    for d in documents: k.validate(d, version, strict=True)
bad = dict(documents[1], spec=dict(documents[1]['spec'], schedules='x'))
try: k.validate(bad, '1.37', strict=True)
except k.ValidationError: pass
else: sys.exit('a wrong key is taken')
run = documents[1]['spec']['jobTemplate']['spec']['template']['spec']['containers'][0]
assert run['args'] == ['run', 'shop']
print(documents[0]['data']['pgvigil.toml'])";
    is_taken(&python(script, "docs/kubernetes-cronjob.yaml"));
}

#[test]
fn the_example_for_nomad() {
    let script = "import sys, hcl2
job = hcl2.load(open(sys.argv[1]))
text = str(job)
for word in ('periodic', 'prohibit_overlap', 'time_zone', 'docker', 'template'): assert word in text, word
source = open(sys.argv[1]).read()
lines = source.split('<<-TOML\\n')[1].split('TOML')[0].splitlines()
print('\\n'.join(line.strip() for line in lines))";
    is_taken(&python(script, "docs/nomad-job.hcl"));
}
