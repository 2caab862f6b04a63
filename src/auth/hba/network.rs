//! Addresses that a rule is for.

use std::fmt;
use std::net::IpAddr;

/// A network: an address and how many of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// `10.0.0.0/8`, or an address alone with the mask that follows it.
    pub(super) fn parse(text: &str, mask: Option<&str>) -> Option<Network> {
        let (address, bits) = match (text.split_once('/'), mask) {
            (Some((address, bits)), None) => {
                let digits = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
                (address.parse().ok()?, digits.then(|| bits.parse().ok()).flatten()?)
            }
            (None, Some(mask)) => {
                let address: IpAddr = text.parse().ok()?;
                (address, bits_of(mask.parse().ok()?, address)?)
            }
            _ => return None,
        };
        (bits <= width(address)).then_some(Network { address, bits })
    }

    /// `address` as [`IpAddr::to_canonical`] gives it.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        let differ = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (u128::from(own.to_bits()) ^ u128::from(other.to_bits())) << 96
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => own.to_bits() ^ other.to_bits(),
            _ => return false,
        };
        differ.leading_zeros() >= u32::from(self.bits)
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

/// Of a mask that is ones, then zeros, of the same family.
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
        let address: IpAddr = address.parse().unwrap();
        Network::parse(network, None).unwrap().holds(address.to_canonical())
    }

    #[test]
    fn a_network_holds_the_addresses_that_share_its_bits() {
        assert!(holds("10.0.0.0/8", "10.255.1.2") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::2"));
        assert!(holds("127.0.0.1/32", "127.0.0.1") && !holds("127.0.0.1/32", "127.0.0.2"));
        assert!(holds("2001:db8::/33", "2001:db8:7fff::1") && !holds("2001:db8::/33", "2001:db8:8000::1"));
        assert!(holds("::/0", "::2") && !holds("::/0", "1.2.3.4"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3"), "a mapped address is the one it maps");
    }

    #[test]
    fn a_mask_is_written_as_bits() {
        let network = |address, mask| Network::parse(address, Some(mask)).map(|network| network.to_string());
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
        for text in
            ["10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/+8", "host/8", "/8"]
        {
            assert_eq!(Network::parse(text, None), None, "{text}");
        }
    }
}
