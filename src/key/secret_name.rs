//! Names of variables whose values are secrets, by their words: `DB_PASSWORD` is one, and `TOKENIZER_VERSION` is none.

/// What a word ends with, digits and a plural apart, that is about a secret wherever it stands.
const WORDS: [&str; 10] =
    ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "CRED", "PGPASS", "APIKEY", "JWT"];

/// What stands before `KEY`, with or without an underscore, where the key is a secret. There are many others, as of caches.
const KEYS: [&str; 18] = [
    "ACCESS",
    "ACCOUNT",
    "API",
    "AUTH",
    "DECRYPTION",
    "DEPLOY",
    "ENCRYPTION",
    "GPG",
    "HMAC",
    "LICENSE",
    "MASTER",
    "PGP",
    "PRIVATE",
    "RSA",
    "SA",
    "SIGNING",
    "SSH",
    "STORAGE",
];

/// What says it only as the last word: `DB_PASS`, but `PASS_COUNT`, `AUTH_SERVICE` and `PAT_FILTER` do not.
const LAST: [&str; 4] = ["PASS", "PWD", "AUTH", "PAT"];

/// Two words that say it together.
const PAIRS: [(&str, &str); 3] = [("CONNECTION", "STRING"), ("AUTH", "CONFIG"), ("AUTH", "HEADER")];

/// The same words with another meaning. The second is the last of the name.
const PLAIN: [(&str, &str); 9] = [
    ("NUM", "PASS"),
    ("BUILD", "PASS"),
    ("WITH", "AUTH"),
    ("WITHOUT", "AUTH"),
    ("USE", "AUTH"),
    ("NO", "AUTH"),
    ("ENABLE", "AUTH"),
    ("INIT", "PWD"),
    ("OLD", "PWD"),
];

/// The last words of names that say something about a thing, whatever it is.
const ABOUT: [&str; 9] = ["VERSION", "VERSIONS", "COUNT", "NUM", "NUMBER", "SIZE", "LENGTH", "TTL", "ENABLED"];

/// What in a variable's name says that its value is a secret.
pub(super) fn secret_in(variable: &str) -> Option<String> {
    let name = variable.to_ascii_uppercase();
    let words: Vec<&str> = name.split('_').filter(|word| !word.is_empty()).collect();
    let (last, others) = words.split_last()?;
    // The last is the working folder, as every shell sets it.
    if ABOUT.contains(last) || name == "PWD" {
        return None;
    }
    let of_word = |word: &&str| {
        let one = singular(word);
        WORDS.into_iter().find(|secret| one.ends_with(secret)).map(str::to_owned).or_else(|| {
            // One word with its `KEY`, and not any word that ends so: `MONKEY`, `VISAKEY`.
            one.strip_suffix("KEY").is_some_and(|kind| KEYS.contains(&kind)).then(|| one.to_owned())
        })
    };
    let of_pair = |pair: &[&str]| {
        let (first, second) = (pair[0], singular(pair[1]));
        let is_key = second == "KEY" && KEYS.contains(&first);
        (is_key || PAIRS.contains(&(first, second))).then(|| format!("{first}_{second}"))
    };
    let of_last = || {
        let is_plain = others.last().is_some_and(|before| PLAIN.contains(&(*before, *last)));
        (LAST.contains(last) && !is_plain).then(|| (*last).to_owned())
    };
    words.iter().find_map(of_word).or_else(|| words.windows(2).find_map(of_pair)).or_else(of_last)
}

/// A word without a number or a plural at its end.
fn singular(word: &str) -> &str {
    let word = word.trim_end_matches(|c: char| c.is_ascii_digit());
    word.strip_suffix('S').filter(|one| !one.ends_with('S')).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_of_a_name_decide() {
        for (name, because) in [
            ("NPM_TOKEN", "TOKEN"),
            ("npmtoken", "TOKEN"),
            ("TOKENS_2", "TOKEN"),
            ("DB_PASSWORD1", "PASSWORD"),
            ("SECRET_KEY_BASE", "SECRET"),
            ("AWS_CREDENTIALS", "CREDENTIAL"),
            ("SMTP_CREDS", "CRED"),
            ("PGPASS", "PGPASS"),
            ("JWT", "JWT"),
            ("AWS_ACCESS_KEY_ID", "ACCESS_KEY"),
            ("RAILS_MASTER_KEY", "MASTER_KEY"),
            ("AZURE_STORAGE_KEY", "STORAGE_KEY"),
            ("GCP_SA_KEY", "SA_KEY"),
            ("HMAC_KEY", "HMAC_KEY"),
            ("DEPLOY_KEYS", "DEPLOY_KEY"),
            ("MY_SSHKEY", "SSHKEY"),
            ("DB_CONNECTION_STRING", "CONNECTION_STRING"),
            ("DOCKER_AUTH_CONFIG", "AUTH_CONFIG"),
            ("DB_PASS", "PASS"),
            ("PASS", "PASS"),
            ("MYSQL_PWD", "PWD"),
            ("NPM_CONFIG__AUTH", "AUTH"),
            ("GITHUB_PAT", "PAT"),
        ] {
            assert_eq!(secret_in(name).as_deref(), Some(because), "{name}");
        }
        for name in [
            "PWD",
            "OLDPWD",
            "AUTH_SERVICE_VERSION",
            "WITH_AUTH",
            "NUM_PASS",
            "BUILD_PASS",
            "PAT_VERSION",
            "INIT_PWD",
            "SSH_KEYGEN_VERSION",
            "DEPLOY_KEYS_VERSION",
            "TOKENIZER_VERSION",
            "TOKENIZERS_PARALLELISM",
            "SECRETS_MANAGER_VERSION",
            "CREDENTIAL_HELPER_VERSION",
            "SSH_AUTH_SOCK",
            "TOKEN_COUNT",
            "CACHE_KEY",
            "MONKEY",
            "COMPASS",
            "PATH",
            "_",
            "",
        ] {
            assert_eq!(secret_in(name), None, "{name}");
        }
    }
}
