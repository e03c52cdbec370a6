//! The rules of one ignore file, as git reads them: byte for byte, with its odd corners.
//!
//! gitignore(5) says most of it. Beyond that: a rule may be no text at all; only spaces are trimmed from its end; braces mean
//! nothing; a set that is not closed, or has an unknown class, matches nothing; and of a rule with a slash, what stands before
//! the first wildcard is compared as it is, so that a `**` right behind it may cross folders.
//! `tests/suite/cache_keys/ignoring.rs` compares all of it with git's own answers.

/// The rules of one file, in their order.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    keeps: bool,
    folders_only: bool,
    scope: Scope,
}

#[derive(Debug)]
enum Scope {
    /// A rule without a slash: any name, however deep.
    Name(Glob),
    /// A path from the file's own folder: bytes as they are, and what follows them.
    Path(Vec<u8>, Glob),
}

impl Rules {
    /// Reads a file. Nothing in it is a mistake.
    pub(super) fn read(text: &[u8]) -> Self {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        Rules(text.split(|byte| *byte == b'\n').filter_map(Rule::read).collect())
    }

    /// Whether something is left out (`Some(true)`), kept (`Some(false)`), or not spoken of. The path is relative to the
    /// file's folder. The last rule that matches decides.
    pub(super) fn decide(&self, path: &[u8], is_dir: bool) -> Option<bool> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let fits = |rule: &&Rule| {
            (is_dir || !rule.folders_only)
                && match &rule.scope {
                    Scope::Name(glob) => glob.matches(name),
                    Scope::Path(start, glob) => path.strip_prefix(&start[..]).is_some_and(|rest| glob.matches(rest)),
                }
        };
        self.0.iter().rev().find(fits).map(|rule| !rule.keeps)
    }
}

impl Rule {
    fn read(line: &[u8]) -> Option<Rule> {
        if line.first().is_none_or(|byte| *byte == b'#') {
            return None;
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // To git, a NUL ends it.
        let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let line = without_spaces(line);
        let (keeps, line) = line.strip_prefix(b"!").map_or((false, line), |rest| (true, rest));
        let (folders_only, line) = line.strip_suffix(b"/").map_or((false, line), |rest| (true, rest));
        let scope = if line.contains(&b'/') {
            let line = line.strip_prefix(b"/").unwrap_or(line);
            let literal = line.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(line.len());
            Scope::Path(line[..literal].to_vec(), Glob::read(&line[literal..], Slashes::Matter))
        } else {
            Scope::Name(Glob::read(line, Slashes::None))
        };
        Some(Rule { keeps, folders_only, scope })
    }
}

/// A line without the spaces at its end; a backslash keeps the one behind it.
fn without_spaces(line: &[u8]) -> &[u8] {
    let (mut end, mut at) = (0, 0);
    while at < line.len() {
        match line[at] {
            b' ' => at += 1,
            b'\\' => {
                at += 2;
                end = at;
            }
            _ => {
                at += 1;
                end = at;
            }
        }
    }
    &line[..end.min(line.len())]
}

/// Whether what is matched can have slashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slashes {
    /// It is a name.
    None,
    /// They part folders, which few wildcards cross.
    Matter,
}

#[derive(Debug)]
struct Glob(Vec<Token>);

#[derive(Debug)]
enum Token {
    Byte(u8),
    /// One byte of these.
    Set(Box<[bool; 256]>),
    /// Any number of bytes of one name.
    Star,
    /// Any number of bytes.
    Everything,
    /// Nothing, or any number of folders with their slashes.
    Folders,
    /// Nothing at all matches.
    Never,
}

impl Glob {
    fn read(text: &[u8], slashes: Slashes) -> Self {
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(byte) = text.get(at) {
            match byte {
                b'\\' => {
                    tokens.push(text.get(at + 1).map_or(Token::Never, |byte| Token::Byte(*byte)));
                    at += 2;
                }
                b'?' => {
                    let mut set = Box::new([true; 256]);
                    set[usize::from(b'/')] = slashes == Slashes::None;
                    tokens.push(Token::Set(set));
                    at += 1;
                }
                b'[' => match set(&text[at + 1..]) {
                    Some((mut set, len)) => {
                        set[usize::from(b'/')] &= slashes == Slashes::None;
                        tokens.push(Token::Set(set));
                        at += 1 + len;
                    }
                    None => return Glob(vec![Token::Never]),
                },
                b'*' => {
                    let stars = text[at..].iter().take_while(|byte| **byte == b'*').count();
                    let before = at == 0 || text[at - 1] == b'/';
                    let rest = &text[at + stars..];
                    at += stars;
                    if stars == 1 || slashes == Slashes::None || !before {
                        tokens.push(Token::Star);
                    } else if rest.starts_with(b"/") {
                        tokens.push(Token::Folders);
                        at += 1;
                    } else if rest.is_empty() || rest.starts_with(b"\\/") {
                        tokens.push(Token::Everything);
                    } else {
                        tokens.push(Token::Star);
                    }
                }
                byte => {
                    tokens.push(Token::Byte(*byte));
                    at += 1;
                }
            }
        }
        Glob(tokens)
    }

    /// All places in the tokens that the text so far can have led to are followed at once: no text takes long.
    fn matches(&self, text: &[u8]) -> bool {
        let tokens = &self.0;
        // Most rules need no more.
        match tokens.as_slice() {
            [Token::Never, ..] => return false,
            [Token::Byte(first), ..] if text.first() != Some(first) => return false,
            [.., Token::Byte(last)] if text.last() != Some(last) => return false,
            _ => {}
        }
        let mut places = vec![false; tokens.len() + 1];
        let mut next = places.clone();
        enter(tokens, &mut places, 0);
        for byte in text {
            next.fill(false);
            for (at, token) in tokens.iter().enumerate().filter(|(at, _)| places[*at]) {
                match token {
                    Token::Byte(expected) if expected == byte => enter(tokens, &mut next, at + 1),
                    Token::Set(set) if set[usize::from(*byte)] => enter(tokens, &mut next, at + 1),
                    Token::Star if *byte != b'/' => enter(tokens, &mut next, at),
                    Token::Everything => enter(tokens, &mut next, at),
                    Token::Folders => {
                        // Not entered: in the middle of a name, nothing is no choice any more.
                        next[at] = true;
                        if *byte == b'/' {
                            enter(tokens, &mut next, at + 1);
                        }
                    }
                    _ => {}
                }
            }
            std::mem::swap(&mut places, &mut next);
        }
        places[tokens.len()]
    }
}

/// Marks a place, and those behind it that need no byte.
fn enter(tokens: &[Token], places: &mut [bool], mut at: usize) {
    places[at] = true;
    while let Some(Token::Star | Token::Everything | Token::Folders) = tokens.get(at) {
        at += 1;
        places[at] = true;
    }
}

/// What stands in brackets, and its length with the closing one. `None` when it is not closed, or names an unknown class.
fn set(text: &[u8]) -> Option<(Box<[bool; 256]>, usize)> {
    let mut set = Box::new([false; 256]);
    let negated = matches!(text.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let first = at;
    // The byte that a range may begin with.
    let mut from = None;
    loop {
        let byte = *text.get(at)?;
        match byte {
            // As the first one it stands for itself.
            b']' if at > first => break,
            b'-' if from.is_some() && text.get(at + 1).is_some_and(|next| *next != b']') => {
                at += 1;
                if text[at] == b'\\' {
                    at += 1;
                }
                let to = *text.get(at)?;
                (from.unwrap_or(to)..=to).for_each(|byte| set[usize::from(byte)] = true);
                from = None;
            }
            b'[' if text.get(at + 1) == Some(&b':') => {
                let len = text[at + 2..].iter().position(|byte| *byte == b']')?;
                match text[at + 2..at + 2 + len].strip_suffix(b":") {
                    Some(name) => {
                        let class = class(name)?;
                        (0..=u8::MAX).filter(class).for_each(|byte| set[usize::from(byte)] = true);
                        at += 2 + len;
                        from = None;
                    }
                    None => {
                        set[usize::from(byte)] = true;
                        from = Some(byte);
                    }
                }
            }
            _ => {
                if byte == b'\\' {
                    at += 1;
                }
                let byte = *text.get(at)?;
                set[usize::from(byte)] = true;
                from = Some(byte);
            }
        }
        at += 1;
    }
    if negated {
        set.iter_mut().for_each(|is_in| *is_in = !*is_in);
    }
    Some((set, at + 1))
}

/// The classes of characters in brackets, as in the C locale.
fn class(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_speaks_of_a_path_decides() {
        let rules = Rules::read(b"*.o\n!keep.o\nbuild/\n/top\ndeep/**/x\n# all\n\\#x\na\\ \n");
        for (path, is_dir, expected) in [
            ("a.o", false, Some(true)),
            ("sub/a.o", false, Some(true)),
            ("keep.o", false, Some(false)),
            ("build", true, Some(true)),
            ("build", false, None),
            ("top", false, Some(true)),
            ("sub/top", false, None),
            ("deep/x", false, Some(true)),
            ("deep/a/b/x", false, Some(true)),
            ("#x", false, Some(true)),
            ("# all", false, None),
            ("a ", false, Some(true)),
            ("a", false, None),
        ] {
            assert_eq!(rules.decide(path.as_bytes(), is_dir), expected, "{path}");
        }
    }

    #[test]
    fn many_stars_take_no_longer_than_few() {
        let rules = Rules::read(format!("/{}b\n", "*a".repeat(200)).as_bytes());
        assert_eq!(rules.decide(&vec![b'a'; 4000], false), None);
    }
}
