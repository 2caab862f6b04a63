//! Splits lines of PostgreSQL's authentication files into fields of words.

/// A word, and whether it was quoted; a quoted word is never a keyword.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::auth) struct Word {
    pub(in crate::auth) text: String,
    pub(in crate::auth) quoted: bool,
}

impl Word {
    /// Whether it is this keyword.
    pub(in crate::auth) fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}

/// Words separated by commas.
pub(in crate::auth) type Field = Vec<Word>;

/// A line that is not empty.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::auth) struct Line {
    /// From 1; of the first line if a backslash joins several.
    pub(in crate::auth) number: usize,
    pub(in crate::auth) fields: Vec<Field>,
}

/// All lines that are not empty. `Err` holds the number of a line with an unclosed quote.
pub(in crate::auth) fn lines(text: &str) -> Vec<Result<Line, usize>> {
    let mut found = Vec::new();
    let mut rest = text.lines().zip(1..).peekable();
    while let Some((first, number)) = rest.next() {
        let mut joined = first.to_owned();
        while let Some(open) = joined.strip_suffix('\\').map(str::len) {
            joined.truncate(open);
            let Some((next, _)) = rest.next() else { break };
            joined.push_str(next);
        }
        match fields(&joined) {
            Some(fields) if fields.is_empty() => {}
            Some(fields) => found.push(Ok(Line { number, fields })),
            None => found.push(Err(number)),
        }
    }
    found
}

/// `None`: a quote is not closed.
fn fields(line: &str) -> Option<Vec<Field>> {
    let mut letters = line.chars().peekable();
    let mut fields: Vec<Field> = Vec::new();
    // The last word ended with a comma, so the next one belongs to the same field.
    let mut goes_on = false;
    loop {
        while letters.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
        if letters.peek().is_none_or(|c| *c == '#') {
            return Some(fields);
        }
        let word = word(&mut letters)?;
        match fields.last_mut() {
            Some(field) if goes_on => field.push(word),
            _ => fields.push(vec![word]),
        }
        goes_on = letters.next_if_eq(&',').is_some();
    }
}

/// Up to a space, a comma or a comment; a quote inside quotes is doubled.
fn word(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Word> {
    let mut word = Word { text: String::new(), quoted: letters.peek() == Some(&'"') };
    let mut inside = false;
    while let Some(&letter) = letters.peek() {
        if !inside && (letter.is_whitespace() || letter == ',' || letter == '#') {
            break;
        }
        letters.next();
        match letter {
            '"' if inside && letters.next_if_eq(&'"').is_some() => word.text.push('"'),
            '"' => inside = !inside,
            letter => word.text.push(letter),
        }
    }
    (!inside).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let line = |line: Result<Line, usize>| match line {
            Ok(line) => {
                let word =
                    |word: &Word| if word.quoted { format!("'{}'", word.text) } else { word.text.clone() };
                let field = |field: &Field| field.iter().map(word).collect::<Vec<_>>().join("|");
                format!("{}: {}", line.number, line.fields.iter().map(field).collect::<Vec<_>>().join(" "))
            }
            Err(number) => format!("{number}: open"),
        };
        lines(text).into_iter().map(line).collect()
    }

    #[test]
    fn fields_are_separated_by_spaces_and_words_by_commas() {
        assert_eq!(shown("host\tall  a,b, c , d x#y\n"), ["1: host all a|b|c d x"]);
        assert_eq!(shown("\n# nothing\n  \nlocal all\n"), ["4: local all"]);
    }

    #[test]
    fn quotes_keep_spaces_commas_and_hashes_and_take_meaning_away() {
        assert_eq!(
            shown(r##"host "all","a,b #" "x""y" "/^a b$""##),
            [r##"1: host 'all'|'a,b #' 'x"y' '/^a b$'"##]
        );
        assert_eq!(shown("a \"b\nc\n"), ["1: open", "2: c"]);
        assert_eq!(shown("a \"\" b"), ["1: a '' b"]);
    }

    #[test]
    fn a_backslash_at_the_end_joins_lines() {
        assert_eq!(shown("host all \\\nall \\\nx\nlocal\n"), ["1: host all all x", "4: local"]);
        assert_eq!(shown("host \\"), ["1: host"]);
    }
}
