//! A range of addresses.

use std::fmt;
use std::net::IpAddr;

/// An address and the number of its bits that count: `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Length of the prefix of an IPv4-mapped IPv6 address.
const MAPPED_BITS: u8 = 96;

impl Network {
    /// `10.0.0.0/8`, `fd00::/8`, or a single address.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address.parse().ok()?, Some(bits)),
            None => (text.parse::<IpAddr>().ok()?, None),
        };
        let bits = match bits {
            None => width(address),
            Some(bits) if !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().ok()?
            }
            Some(_) => return None,
        };
        (bits <= width(address)).then_some(Network { address, bits }.canonical())
    }

    /// `10.0.0.0` and `255.0.0.0`.
    pub fn with_mask(address: &str, mask: &str) -> Option<Network> {
        let address: IpAddr = address.parse().ok()?;
        Some(Network { address, bits: bits_of(mask.parse().ok()?, address)? }.canonical())
    }

    /// `::ffff:10.0.0.0/104` is `10.0.0.0/8`: an address is looked up by its canonical form.
    fn canonical(self) -> Network {
        match (self.address, self.bits.checked_sub(MAPPED_BITS)) {
            (IpAddr::V6(six), Some(bits)) => match six.to_ipv4_mapped() {
                Some(four) => Network { address: IpAddr::V4(four), bits },
                None => self,
            },
            _ => self,
        }
    }

    /// `address` must be in the form of [`IpAddr::to_canonical`].
    pub fn holds(&self, address: IpAddr) -> bool {
        let (differing, unused) = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (u128::from(own.to_bits() ^ other.to_bits()), 96),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits(), 0),
            _ => return false,
        };
        differing.leading_zeros() >= unused + u32::from(self.bits)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The number of ones in a mask of ones followed by zeros, of the same family.
fn bits_of(mask: IpAddr, address: IpAddr) -> Option<u8> {
    let (ones, zeros) = match (mask, address) {
        (IpAddr::V4(mask), IpAddr::V4(_)) => (mask.to_bits().leading_ones(), mask.to_bits().trailing_zeros()),
        (IpAddr::V6(mask), IpAddr::V6(_)) => (mask.to_bits().leading_ones(), mask.to_bits().trailing_zeros()),
        _ => return None,
    };
    let ones = u8::try_from(ones).ok()?;
    (u32::from(ones) + zeros == u32::from(width(mask))).then_some(ones)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(network: &str, address: &str) -> bool {
        Network::parse(network).unwrap().holds(address.parse().unwrap())
    }

    #[test]
    fn a_network_holds_the_addresses_that_share_its_bits() {
        assert!(holds("::ffff:10.0.0.0/104", "10.255.1.2") && !holds("::ffff:10.0.0.0/104", "11.0.0.0"));
        assert!(holds("::ffff:10.0.0.1", "10.0.0.1") && !holds("::ffff:10.0.0.1", "10.0.0.2"));
        assert!(holds("10.0.0.0/8", "10.255.1.2") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("127.0.0.1", "127.0.0.1") && !holds("127.0.0.1", "127.0.0.2"));
        assert!(holds("2001:db8::/33", "2001:db8:7fff::1") && !holds("2001:db8::/33", "2001:db8:8000::1"));
        assert!(holds("::/0", "::2") && !holds("::/0", "1.2.3.4"));
    }

    #[test]
    fn a_mask_is_written_as_bits() {
        let network = |address, mask| Network::with_mask(address, mask).map(|network| network.to_string());
        assert_eq!(network("10.0.0.0", "255.0.0.0").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(network("10.0.0.1", "255.255.255.255").as_deref(), Some("10.0.0.1/32"));
        assert_eq!(network("10.0.0.1", "0.0.0.0").as_deref(), Some("10.0.0.1/0"));
        assert_eq!(network("fe80::", "ffff::").as_deref(), Some("fe80::/16"));
        for (address, mask) in
            [("10.0.0.0", "255.0.255.0"), ("10.0.0.0", "ffff::"), ("10.0.0.0/8", "255.0.0.0")]
        {
            assert_eq!(network(address, mask), None, "{address} {mask}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/+8", "host/8", "/8"] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
