//! The values of a Bind, read only for statements with parameters that name settings or locks.

/// The parameters of a Bind.
pub(super) struct BindValues<'a> {
    formats: Vec<i16>,
    values: Vec<Option<&'a [u8]>>,
}

impl<'a> BindValues<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Option<BindValues<'a>> {
        let mut rest = body;
        for _ in 0..2 {
            let end = memchr::memchr(0, rest)?;
            rest = rest.get(end + 1..)?;
        }
        let mut formats = Vec::new();
        for _ in 0..count(&mut rest)? {
            formats.push(i16::from_be_bytes(take(&mut rest, 2)?.try_into().ok()?));
        }
        let mut values = Vec::new();
        for _ in 0..count(&mut rest)? {
            let length = i32::from_be_bytes(take(&mut rest, 4)?.try_into().ok()?);
            values.push(match usize::try_from(length) {
                Ok(length) => Some(take(&mut rest, length)?),
                Err(_) => None,
            });
        }
        Some(BindValues { formats, values })
    }

    fn value(&self, parameter: u16) -> Option<&'a [u8]> {
        *self.values.get(usize::from(parameter).checked_sub(1)?)?
    }

    /// The bytes of a text parameter: text and binary format agree. NULL is the empty text, which is no name.
    pub(super) fn text(&self, parameter: u16) -> Option<&'a [u8]> {
        let value = self.values.get(usize::from(parameter).checked_sub(1)?)?;
        Some(value.unwrap_or_default())
    }

    pub(super) fn number(&self, parameter: u16) -> Option<i64> {
        let value = self.value(parameter)?;
        let format = match self.formats.as_slice() {
            [] => 0,
            [all] => *all,
            each => *each.get(usize::from(parameter) - 1)?,
        };
        if format == 0 {
            return std::str::from_utf8(value).ok()?.trim().parse().ok();
        }
        match value.len() {
            2 => Some(i64::from(i16::from_be_bytes(value.try_into().ok()?))),
            4 => Some(i64::from(i32::from_be_bytes(value.try_into().ok()?))),
            8 => Some(i64::from_be_bytes(value.try_into().ok()?)),
            _ => None,
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn count(rest: &mut &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(take(rest, 2)?.try_into().ok()?))
}
