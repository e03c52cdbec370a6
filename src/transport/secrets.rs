//! Keeping credentials out of what people see: the second defence, behind messages that are made from known parts.

use crate::env::Env;

/// Shorter values are more likely words than secrets, and would tear holes into messages.
const SHORTEST: usize = 6;

/// Values of the environment that must never be printed.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Collects every variable whose name says that it is a secret.
    pub(super) fn of(env: &Env) -> Self {
        const TELLING: [&str; 7] =
            ["SECRET", "TOKEN", "PASSWORD", "PRIVATE_KEY", "ACCESS_KEY", "ACCOUNT_KEY", "API_KEY"];
        let secret = |name: &str| TELLING.iter().any(|part| name.contains(part)) && !name.ends_with("_FILE");
        let mut values: Vec<_> =
            env.iter().filter(|(name, value)| secret(name) && value.len() >= SHORTEST).map(|(_, v)| v.into()).collect();
        // Longest first: a secret that contains another one must go as a whole.
        values.sort_by_key(|value: &String| std::cmp::Reverse(value.len()));
        Secrets(values)
    }

    /// The text with every secret replaced.
    pub(super) fn redact(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "[redacted]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_replaced_and_names_of_steps_are_not() {
        let env = Env::of([
            ("AWS_SECRET_ACCESS_KEY", "hunter2hunter2"),
            ("BUILDKITE_AGENT_ACCESS_TOKEN", "llama-hunter2hunter2"),
            ("BUILDKITE_STEP_KEY", "compile"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"),
            ("SHORT_TOKEN", "a"),
        ]);
        let text = Secrets::of(&env).redact("llama-hunter2hunter2 hunter2hunter2 compile /var/run/token a");
        assert_eq!(text, "[redacted] [redacted] compile /var/run/token a");
    }
}
