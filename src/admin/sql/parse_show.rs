//! The productions of SHOW: its syntax stands in the table of commands.

use crate::admin::commands::{Show, each_show};
use crate::admin::parser::Parser;
use crate::admin::sql::values;
use crate::admin::statement::Statement;
use crate::admin::{ErrorKind, SyntaxError};
use crate::model::{AuditFilter, ContractExport, ContractFormat, DatabaseName, MoveId};

/// Reads what follows the keyword of a SHOW.
type ReadShow = fn(&mut Parser) -> Result<Show, SyntaxError>;

/// Makes [`SHOWS`].
macro_rules! shows {
    ($($variant:ident $scope:ident $syntax:literal,
        $($function:ident)::+($($subject:ident: $kind:ty)?) $(with $cluster:ident)? $(for $asker:ident)?;)*) => {
        /// The syntax of each SHOW, and what reads its name or number.
        const SHOWS: &[(&str, ReadShow)] =
            &[$(($syntax, |_parser| Ok(Show::$variant $((<$kind as Subject>::read(_parser)?))?)),)*];
    };
}

each_show!(shows);

/// PgBouncer's; refused.
const FDS: &str = "FDS";

/// What a SHOW can be about.
trait Subject: Sized {
    fn read(parser: &mut Parser) -> Result<Self, SyntaxError>;
}

impl Subject for DatabaseName {
    fn read(parser: &mut Parser) -> Result<DatabaseName, SyntaxError> {
        values::database(parser)
    }
}

impl Subject for MoveId {
    fn read(parser: &mut Parser) -> Result<MoveId, SyntaxError> {
        values::move_id(parser)
    }
}

/// `name FORMAT JSON|YAML|ODCS`
impl Subject for ContractExport {
    fn read(parser: &mut Parser) -> Result<ContractExport, SyntaxError> {
        let database = values::database(parser)?;
        parser.expect("FORMAT")?;
        let format = match parser.one_of(&["JSON", "YAML", "ODCS"])? {
            "JSON" => ContractFormat::Json,
            "YAML" => ContractFormat::Yaml,
            _ => ContractFormat::OpenDataContract,
        };
        Ok(ContractExport { database, format })
    }
}

/// `[FOR [DATABASE] name]`
impl Subject for Option<DatabaseName> {
    fn read(parser: &mut Parser) -> Result<Option<DatabaseName>, SyntaxError> {
        match parser.accept("FOR") {
            true => values::noisy_database(parser).map(Some),
            false => Ok(None),
        }
    }
}

/// `[FOR [DATABASE] name] [SINCE 'time']`
impl Subject for AuditFilter {
    fn read(parser: &mut Parser) -> Result<AuditFilter, SyntaxError> {
        let mut filter = AuditFilter::default();
        parser.clauses(&["FOR", "SINCE"], |parser, clause| {
            match clause {
                "FOR" => filter.database = Some(values::noisy_database(parser)?),
                _ => filter.since = Some(values::since(parser)?),
            }
            Ok(())
        })?;
        Ok(filter)
    }
}

/// The words of `SHOW MOVE number TABLES`.
struct Words {
    keyword: &'static str,
    /// `[DATABASE]` may stand before the name.
    has_noise: bool,
    /// The keyword behind the name or the number.
    suffix: Option<&'static str>,
    /// Nothing follows that keyword.
    ends_with_suffix: bool,
}

impl Words {
    fn of(syntax: &'static str) -> Words {
        let mut words = syntax.split(' ').skip(1);
        let keyword = words.next().unwrap_or_default();
        let is_keyword = |word: &&str| word.chars().all(|c| c.is_ascii_uppercase());
        let (has_noise, suffix) = (syntax.contains(" [DATABASE] "), words.find(is_keyword));
        Words { keyword, has_noise, suffix, ends_with_suffix: words.next().is_none() }
    }
}

pub(in crate::admin) fn show(parser: &mut Parser) -> Result<Statement, SyntaxError> {
    let span = parser.span();
    let shows = || SHOWS.iter().map(|(syntax, read)| (Words::of(syntax), read));
    let keywords: Vec<&str> = shows().map(|(words, _)| words.keyword).chain([FDS]).collect();
    let keyword = parser.one_of(&keywords)?;
    // A SHOW with a further word behind the name goes before the one without.
    let behind = parser.word_ahead(1);
    let (mut longer, mut shorter) = (None, None);
    for (words, read) in shows().filter(|(words, _)| words.keyword == keyword) {
        match words.suffix {
            None => shorter = Some((words, read)),
            Some(suffix) if behind.as_deref() == Some(suffix) => longer = Some((words, read)),
            Some(_) => {}
        }
    }
    let Some((words, read)) = longer.or(shorter) else {
        return Err(SyntaxError::new(span, "descriptors of sockets are not given away")
            .with_hint("SHOW SOCKETS; lists the connections.")
            .of_kind(ErrorKind::Unsupported));
    };
    if words.has_noise && behind.is_some() {
        parser.accept("DATABASE");
    }
    let show = read(parser)?;
    if let Some(suffix) = words.suffix.filter(|_| words.ends_with_suffix) {
        parser.expect(suffix)?;
    }
    Ok(Statement::Show(show))
}
