//! Names of variables whose values are secrets, by their words: `DB_PASSWORD` is one, and `TOKENIZER_VERSION` is none.

/// What is about a secret wherever it stands, also within a word.
const WITHIN: [&str; 5] = ["SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL"];

/// What a word ends with that is about one, digits and a plural apart.
const ENDS: [&str; 5] = ["TOKEN", "CRED", "PGPASS", "APIKEY", "JWT"];

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

/// What says it as a word of its own.
const ALONE: [&str; 3] = ["PASS", "PWD", "PAT"];

/// What says it only as the last word: `NPM_AUTH`, but not `AUTH_SERVICE` and `SSH_AUTH_SOCK`.
const LAST: &str = "AUTH";

/// What may stand behind the last word: which one it is, and how it is written.
const BEHIND: [&str; 13] =
    ["PROD", "PRODUCTION", "STAGING", "DEV", "TEST", "CI", "RO", "RW", "B64", "BASE64", "JSON", "VALUE", "ENCODED"];

/// Two words that say it together.
const PAIRS: [(&str, &str); 3] = [("CONNECTION", "STRING"), ("AUTH", "CONFIG"), ("AUTH", "HEADER")];

/// The same words with another meaning.
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
const ABOUT: [&str; 7] = ["VERSION", "VERSIONS", "COUNT", "SIZE", "LENGTH", "TTL", "ENABLED"];

/// What in a variable's name says that its value is a secret.
pub(super) fn secret_in(variable: &str) -> Option<String> {
    let name = variable.to_ascii_uppercase();
    let words: Vec<&str> = name.split('_').filter(|word| !word.is_empty()).collect();
    let last = words.last()?;
    // The last is the working folder, as every shell sets it.
    if ABOUT.contains(last) || name == "PWD" {
        return None;
    }
    let of_word = |word: &&str| {
        let one = singular(word);
        let within = WITHIN.into_iter().find(|secret| one.contains(secret));
        within.or_else(|| ENDS.into_iter().find(|secret| one.ends_with(secret))).map(str::to_owned).or_else(|| {
            // One word with its `KEY`, and not any word that ends so: `MONKEY`, `VISAKEY`.
            one.strip_suffix("KEY").is_some_and(|kind| KEYS.contains(&kind)).then(|| one.to_owned())
        })
    };
    let of_pair = |pair: &[&str]| {
        let (first, second) = (pair[0], singular(pair[1]));
        let is_key = second == "KEY" && KEYS.contains(&first);
        (is_key || PAIRS.contains(&(first, second))).then(|| format!("{first}_{second}"))
    };
    let is_plain = |at: usize| at.checked_sub(1).is_some_and(|before| PLAIN.contains(&(words[before], words[at])));
    let is_behind = |word: &&&str| BEHIND.contains(*word) || word.bytes().all(|byte| byte.is_ascii_digit());
    let of_last = || {
        let at = words.len() - words.iter().rev().take_while(is_behind).count();
        at.checked_sub(1).filter(|at| singular(words[*at]) == LAST && !is_plain(*at)).map(|_| LAST.to_owned())
    };
    let of_alone = || {
        let mut found = words.iter().enumerate().filter(|(at, word)| ALONE.contains(&singular(word)) && !is_plain(*at));
        found.next().map(|(_, word)| singular(word).to_owned())
    };
    words.iter().find_map(of_word).or_else(|| words.windows(2).find_map(of_pair)).or_else(of_alone).or_else(of_last)
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
            ("DB_PASS1", "PASS"),
            ("DB_PASS_PROD", "PASS"),
            ("PAT_GITHUB_2", "PAT"),
            ("S3_SECRETKEY", "SECRET"),
            ("secretAccessKey", "SECRET"),
            ("TF_VAR_clientSecretValue", "SECRET"),
            ("DB_PASSWORDHASH", "PASSWORD"),
            ("DB_PASSWORD_NUMBER", "PASSWORD"),
            ("NPM_AUTH_B64", "AUTH"),
            ("GOOGLE_AUTH_2_JSON", "AUTH"),
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
