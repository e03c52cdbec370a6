//! Key templates: text with function calls in it, as a pipeline's author writes them.
//!
//! ```text
//! npm-{{ os }}-{{ arch }}-{{ checksum "package-lock.json" "patches/**" }}
//! ```
//! | call | is replaced by |
//! |---|---|
//! | `os`, `arch` | the system and the processor, in the words of Rust's targets: `linux`, `x86_64` |
//! | `checksum GLOB… [optional]` | the digest of the names, executable bits and contents of files |
//! | `branch`, `default_branch`, `pipeline` | what the job says of itself |
//! | `env NAME` | the value of a variable |
//! | `date FORMAT` | now, in UTC: `%Y %m %d %H`, and `%G %V` for ISO years and weeks |
//!
//! Reading is all that is done here: what a call gives is the engine's to find out.

use std::fmt;

use super::secret_name::secret_in;
use crate::error::{Error, Result};
use crate::text::Shown;

/// The longest template.
const LONGEST: usize = 1024;

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// The operating system.
    Os,
    /// The processor.
    Arch,
    /// The digest of files.
    Checksum,
    /// The branch that is built.
    Branch,
    /// The pipeline's default branch.
    DefaultBranch,
    /// The pipeline.
    Pipeline,
    /// A variable's value.
    Env,
    /// The date.
    Date,
}

impl Function {
    const ALL: [Function; 8] = [
        Function::Os,
        Function::Arch,
        Function::Checksum,
        Function::Branch,
        Function::DefaultBranch,
        Function::Pipeline,
        Function::Env,
        Function::Date,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Function::Os => "os",
            Function::Arch => "arch",
            Function::Checksum => "checksum",
            Function::Branch => "branch",
            Function::DefaultBranch => "default_branch",
            Function::Pipeline => "pipeline",
            Function::Env => "env",
            Function::Date => "date",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Function> {
        Function::ALL.into_iter().find(|function| function.name() == name)
    }

    /// What it takes, for messages; `None` for nothing.
    fn takes(self) -> Option<&'static str> {
        match self {
            Function::Checksum => Some("files in quotes"),
            Function::Env => Some("one name of a variable in quotes"),
            Function::Date => Some("one format in quotes"),
            _ => None,
        }
    }
}

/// A function with what it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What is asked for.
    pub function: Function,
    /// Globs, a variable's name, a format.
    pub arguments: Vec<String>,
    /// Whether a checksum of nothing is none, instead of an error.
    pub optional: bool,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.function.name())?;
        self.arguments.iter().try_for_each(|argument| write!(f, " \"{}\"", Shown(argument.as_bytes())))
    }
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text that stands for itself.
    Text(String),
    /// A call.
    Call(Call),
}

/// A template, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

impl Template {
    /// Reads a template. Class `Usage`, with the place in it, for what is none.
    pub fn parse(text: &str) -> Result<Template> {
        if text.is_empty() || text.len() > LONGEST || text.contains(char::is_control) {
            return Err(Error::usage(format_args!("a key is 1 to {LONGEST} bytes of text without control characters")));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("{{") {
            if at > 0 {
                pieces.push(Piece::Text(rest[..at].to_owned()));
            }
            let mut reader = Reader { whole: text, at: text.len() - rest.len() + at + 2 };
            pieces.push(Piece::Call(reader.call()?));
            rest = &text[reader.at..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Template(pieces))
    }

    /// Its pieces, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }
}

/// Reads a call, from behind its `{{` to behind its `}}`.
struct Reader<'a> {
    whole: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.whole[self.at..]
    }

    fn wrong(&self, at: usize, what: impl fmt::Display) -> Error {
        let column = self.whole[..at].chars().count() + 1;
        Error::usage(format_args!("at character {column} of `{}`: {what}", Shown(self.whole.as_bytes())))
    }

    fn skip_blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches(' ').len();
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let len =
            rest.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '.')).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn call(&mut self) -> Result<Call> {
        self.skip_blanks();
        let begins = self.at;
        let name = self.word();
        let function = Function::parse(name).ok_or_else(|| self.unknown(begins, name))?;
        let mut call = Call { function, arguments: Vec::new(), optional: false };
        loop {
            let before = self.at;
            self.skip_blanks();
            let begins = self.at;
            match self.rest().chars().next() {
                None => return Err(self.wrong(begins, "this `{{` has no `}}`")),
                Some('}') if self.rest().starts_with("}}") => {
                    self.at += 2;
                    break;
                }
                Some(quote @ ('"' | '\'')) if before < begins => call.arguments.push(self.quoted(quote)?),
                Some(_) => {
                    let word = self.word();
                    if word == "optional" && function == Function::Checksum && before < begins {
                        call.optional = true;
                        continue;
                    }
                    let expected = match function.takes() {
                        Some(takes) => format!("{takes}, then `}}}}`"),
                        None => "`}}`".to_owned(),
                    };
                    return Err(self.wrong(begins, format_args!("`{}` takes {expected}", function.name())));
                }
            }
        }
        self.check(begins, &call)?;
        Ok(call)
    }

    fn quoted(&mut self, quote: char) -> Result<String> {
        let begins = self.at;
        let inner = &self.rest()[1..];
        let Some(len) = inner.find(quote) else { return Err(self.wrong(begins, "this quote is not closed")) };
        self.at += len + 2;
        Ok(inner[..len].to_owned())
    }

    fn unknown(&self, at: usize, name: &str) -> Error {
        let known = Function::ALL.map(Function::name);
        // `agent.os` is how another tool says it.
        let plain = name.rsplit('.').next().unwrap_or(name).to_lowercase();
        let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(&plain, known));
        let nearest = nearest.filter(|known| strsim::damerau_levenshtein(&plain, known) <= 1 + known.len() / 3);
        let error = match name {
            "" => self.wrong(at, "a function is missing"),
            name => self.wrong(at, format_args!("there is no function `{name}`")),
        };
        match nearest.filter(|_| !name.is_empty()) {
            Some(nearest) => error.hint(format_args!("did you mean `{nearest}`?")),
            None => error.hint(format_args!("the functions are {}", known.join(", "))),
        }
    }

    fn check(&self, at: usize, call: &Call) -> Result<()> {
        let name = call.function.name();
        let count = call.arguments.len();
        let fits = match call.function {
            Function::Checksum => count > 0,
            Function::Env | Function::Date => count == 1,
            _ => count == 0,
        };
        if !fits || call.arguments.iter().any(String::is_empty) {
            return Err(self.wrong(at, format_args!("`{name}` takes {}", call.function.takes().unwrap_or("nothing"))));
        }
        match (call.function, call.arguments.first()) {
            (Function::Env, Some(variable)) => {
                let plain = variable.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                if !plain {
                    return Err(
                        self.wrong(at, format_args!("`{}` is no name of a variable", Shown(variable.as_bytes())))
                    );
                }
                if let Some(word) = secret_in(variable) {
                    let why = format_args!("`{variable}` looks like a secret because of `{word}`, and keys are shown");
                    return Err(self.wrong(at, why).hint("leave it out, or give the part that matters another name"));
                }
            }
            (Function::Date, Some(format)) => {
                check_format(format).map_err(|what| self.wrong(at, what))?;
            }
            (Function::Checksum, _) if call.arguments.iter().all(|glob| glob.starts_with('!')) => {
                return Err(self.wrong(at, "`checksum` has only globs that take out (`!…`)"));
            }
            _ => {}
        }
        Ok(())
    }
}

fn check_format(format: &str) -> std::result::Result<(), String> {
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c == '%' && !chars.next().is_some_and(|c| "YmdHGV%".contains(c)) {
            return Err("a date knows %Y %m %d %H, %G %V (ISO year and week), and %%".to_owned());
        }
    }
    Ok(())
}

/// A moment in UTC, seconds since 1970, in a format that [`Template::parse`] took.
pub fn date(format: &str, seconds: u64) -> String {
    let (days, hour) = (seconds / 86_400, seconds / 3600 % 24);
    let (year, month, day) = civil(days);
    // 1970 began on a Thursday; the week belongs to the year that its Thursday lies in.
    let thursday = days + 3 - (days + 3) % 7;
    let iso_year = civil(thursday).0;
    let week = (thursday - first_day(iso_year)) / 7 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('Y')) => out.push_str(&format!("{year:04}")),
            ('%', Some('m')) => out.push_str(&format!("{month:02}")),
            ('%', Some('d')) => out.push_str(&format!("{day:02}")),
            ('%', Some('H')) => out.push_str(&format!("{hour:02}")),
            ('%', Some('G')) => out.push_str(&format!("{iso_year:04}")),
            ('%', Some('V')) => out.push_str(&format!("{week:02}")),
            ('%', Some(c)) | (c, None) => out.push(c),
            (c, Some(_)) => out.push(c),
        }
    }
    out
}

/// Days since 1970 of a year's first day.
fn first_day(year: u64) -> u64 {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    (1970..year).map(|year| 365 + u64::from(leap(year))).sum()
}

/// Year, month and day of a day counted from 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days / 366;
    while first_day(year + 1) <= days {
        year += 1;
    }
    let leap = first_day(year + 1) - first_day(year) == 366;
    let mut left = days - first_day(year);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn text_and_calls_are_told_apart() {
        let template = Template::parse("npm-{{ os }}{{arch}}-{{ checksum \"a b\" '!c' optional }}}").unwrap();
        let call = |function, arguments: &[&str], optional| {
            Piece::Call(Call { function, arguments: arguments.iter().map(ToString::to_string).collect(), optional })
        };
        assert_eq!(
            template.pieces(),
            [
                Piece::Text("npm-".into()),
                call(Function::Os, &[], false),
                call(Function::Arch, &[], false),
                Piece::Text("-".into()),
                call(Function::Checksum, &["a b", "!c"], true),
                Piece::Text("}".into()),
            ]
        );
    }

    #[test]
    fn a_bad_template_says_where_and_what_was_meant() {
        for (text, says, hint) in [
            ("a-{{ ox }}", "at character 6 of `a-{{ ox }}`: there is no function `ox`", "did you mean `os`?"),
            ("{{ agent.os }}", "there is no function `agent.os`", "did you mean `os`?"),
            ("{{ chekcsum \"a\" }}", "no function `chekcsum`", "did you mean `checksum`?"),
            ("{{ }}", "a function is missing", "the functions are os,"),
            ("ü{{ os", "at character 7 of", ""),
            ("{{ os \"a\" }}", "`os` takes nothing", ""),
            ("{{ os arch }}", "`os` takes `}}`", ""),
            ("{{ checksum }}", "`checksum` takes files in quotes", ""),
            ("{{ checksum a }}", "`checksum` takes files in quotes, then `}}`", ""),
            ("{{ checksum \"a }}", "this quote is not closed", ""),
            ("{{ checksum \"!a\" }}", "only globs that take out", ""),
            ("{{ checksum \"a\"\"b\" }}", "`checksum` takes", ""),
            ("{{ env \"a b\" }}", "no name of a variable", ""),
            ("{{ env \"X_APIKEY\" }}", "looks like a secret because of `APIKEY`", "leave it out"),
            ("{{ env \"DB_PASS\" }}", "looks like a secret because of `PASS`", "leave it out"),
            ("{{ env \"MYSQL_PWD\" }}", "looks like a secret because of `PWD`", "leave it out"),
            ("{{ env \"PGPASSWD\" }}", "looks like a secret because of `PASSWD`", "leave it out"),
            ("{{ env \"SIGNING_KEY\" }}", "looks like a secret because of `SIGNING_KEY`", "leave it out"),
            ("{{ env \"REDIS_AUTH\" }}", "looks like a secret because of `AUTH`", "leave it out"),
            ("{{ env \"GITHUB_PAT\" }}", "looks like a secret because of `PAT`", "leave it out"),
            ("{{ env \"ssh_key\" }}", "looks like a secret because of `SSH_KEY`", "leave it out"),
            ("{{ env \"NPM_TOKEN\" }}", "looks like a secret because of `TOKEN`", "leave it out"),
            ("{{ date \"%y\" }}", "a date knows %Y", ""),
            ("", "a key is 1 to 1024 bytes", ""),
            ("a\nb", "without control characters", ""),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert_eq!(error.class(), Class::Usage);
            assert!(error.to_string().contains(says), "{text}: {error}");
            assert!(error.next_step().unwrap_or("").contains(hint), "{text}: {:?}", error.next_step());
        }
    }

    /// Whatever is written, it is read or told of.
    #[test]
    fn no_text_brings_the_reader_down() {
        const WORDS: [&str; 16] =
            ["{{", "}}", "{", "}", " ", "os", "checksum", "env", "date", "optional", "\"", "'", "a", "%Y", "ü", "!"];
        let mut seed = 1_u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as usize
        };
        let mut read = 0;
        for _ in 0..20_000 {
            let text: String = (0..next() % 12).map(|_| WORDS[next() % WORDS.len()]).collect();
            match Template::parse(&text) {
                Ok(template) => {
                    assert!(!template.pieces().is_empty(), "{text}");
                    read += 1;
                }
                Err(error) => assert_eq!(error.class(), Class::Usage, "{text}"),
            }
        }
        assert!(read > 1000, "{read}");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, told) in [
            (0, "1970-01-01 00 1970-01"),
            (951_782_400, "2000-02-29 00 2000-09"),
            (1_735_599_600, "2024-12-30 23 2025-01"),
            (1_230_768_000, "2009-01-01 00 2009-01"),
            (1_262_304_000, "2010-01-01 00 2009-53"),
            (4_102_444_799, "2099-12-31 23 2099-53"),
        ] {
            assert_eq!(date("%Y-%m-%d %H %G-%V", seconds), told, "{seconds}");
        }
        assert_eq!(date("100%%", 0), "100%");
    }
}
