//! The framing of TFRecord files.
//!
//! ```text
//! u64 little-endian   length of the data
//! u32 little-endian   masked CRC-32C of the eight bytes above
//! data
//! u32 little-endian   masked CRC-32C of the data
//! ```
//!
//! The mask keeps a checksum from being a checksum of data that contains checksums: rotate right by 15 bits and add a
//! constant.

use crc::{CRC_32_ISCSI, Crc};

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// `data` as one record.
pub(super) fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

fn masked_crc(data: &[u8]) -> u32 {
    CRC.checksum(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The data of each record, checked.
    pub(in super::super) fn unframe(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_at(8);
            let (length_crc, rest) = rest.split_at(4);
            let (data, rest) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let (data_crc, rest) = rest.split_at(4);
            assert_eq!(length_crc, masked_crc(length).to_le_bytes());
            assert_eq!(data_crc, masked_crc(data).to_le_bytes());
            records.push(data);
            bytes = rest;
        }
        records
    }

    /// The checksum bit by bit, from its definition: reflected polynomial 0x1EDC6F41, ones before and after.
    fn crc_by_definition(data: &[u8]) -> u32 {
        !data.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
        })
    }

    #[test]
    fn checksums_are_crc_32c() {
        // RFC 3720, appendix B.4, and the check value of the CRC catalogues.
        let descending = (0..32).rev().collect::<Vec<u8>>();
        let ascending = (0..32).collect::<Vec<u8>>();
        let vectors: [(&[u8], u32); 6] = [
            (b"", 0),
            (b"123456789", 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (&descending, 0x113f_db5c),
        ];
        for (data, crc) in vectors {
            assert_eq!(CRC.checksum(data), crc);
            assert_eq!(crc_by_definition(data), crc);
        }
    }
}
