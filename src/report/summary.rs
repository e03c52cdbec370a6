//! What happened, as one JSON document.

use serde_json::{Value, json};

use crate::engine::Outcome;
use crate::error::{Class, Error};
use crate::report::Severity;

/// Collects what is reported. The keys of the document are documented at [`Report::finish`](super::Report::finish).
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// The schema of a document of its own, for commands that do not move artifacts.
    schema: Option<&'static str>,
    artifacts: Vec<Value>,
    warnings: Vec<String>,
    error: Option<Value>,
    sections: Vec<(&'static str, Value)>,
}

impl Summary {
    pub(super) fn outcome(&mut self, name: &str, outcome: &Outcome) {
        let result = if outcome.moved { "done" } else { "empty" };
        self.artifacts.push(artifact(name, result, outcome, Value::Null));
    }

    pub(super) fn skipped(&mut self, name: &str, why: &str) {
        let outcome = Outcome { warnings: vec![why.to_owned()], ..Outcome::default() };
        self.artifacts.push(artifact(name, "skipped", &outcome, Value::Null));
    }

    pub(super) fn failure(&mut self, name: &str, error: &Error, severity: Severity) {
        let result = if severity == Severity::Error { "failed" } else { "warned" };
        self.artifacts.push(artifact(name, result, &Outcome::default(), describe(error)));
    }

    pub(super) fn warning(&mut self, text: &str) {
        self.warnings.push(text.to_owned());
    }

    pub(super) fn error(&mut self, error: &Error) {
        self.error = Some(describe(error));
    }

    pub(super) fn schema(&mut self, schema: &'static str) {
        self.schema = Some(schema);
    }

    pub(super) fn section(&mut self, key: &'static str, content: Value) {
        self.sections.push((key, content));
    }

    pub(super) fn document(&self, command: Option<&str>, status: u8) -> Value {
        if let Some(schema) = self.schema {
            let mut document = json!({ "schema": schema, "ok": status == 0 });
            if let Some(error) = &self.error {
                // One word for one thing: what other documents call its class is the kind here.
                let kind = match error["class"].as_str() {
                    Some("not-there") if schema == "meta.cache-get/1" => "miss",
                    class => class.unwrap_or_default(),
                };
                let (message, hint) = (&error["message"], &error["hint"]);
                document["error"] = json!({ "code": status, "kind": kind, "message": message, "hint": hint });
            }
            if !self.warnings.is_empty() {
                document["warnings"] = json!(self.warnings);
            }
            for (key, content) in &self.sections {
                document[*key] = content.clone();
            }
            return document;
        }
        let mut document = json!({
            "command": command,
            "status": status,
            "warnings": self.warnings,
            "error": self.error,
            "artifacts": self.artifacts,
        });
        for (key, content) in &self.sections {
            document[*key] = content.clone();
        }
        document
    }
}

fn artifact(name: &str, result: &str, outcome: &Outcome, error: Value) -> Value {
    let mut artifact = json!({
        "name": name,
        "result": result,
        "files": outcome.files,
        "content_bytes": outcome.content_bytes,
        "artifact_bytes": outcome.artifact_bytes,
        "seconds": (outcome.took.as_secs_f64() * 1000.0).round() / 1000.0,
        "from": outcome.from,
        "warnings": outcome.warnings,
        "error": error,
    });
    if let Some(chunks) = outcome.chunks {
        artifact["chunks"] = json!({
            "total": chunks.total,
            "moved": chunks.moved,
            "moved_bytes": chunks.moved_bytes,
            "from_seed": chunks.from_seed,
            "from_cache": chunks.from_cache,
        });
    }
    artifact
}

/// An error as the documents show it: its class, message and hint.
pub fn describe(error: &Error) -> Value {
    let class = match error.class() {
        Class::Failed => "failed",
        Class::Usage => "usage",
        Class::NotThere => "not-there",
        Class::Workspace => "workspace",
        Class::Changed => "changed",
        Class::Refused => "refused",
        Class::Damaged => "damaged",
        Class::Unavailable => "unavailable",
        Class::Locked => "locked",
        Class::Interrupted { .. } => "interrupted",
    };
    json!({ "class": class, "message": error.chain(), "hint": error.next_step() })
}
