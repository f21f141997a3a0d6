"""Structure of PNG and JPEG files: what keeps decoders from reading the same pixels, and data that are missing.

Decoders differ in what they forgive. Only files in which there is nothing to forgive count as plain; `prepare` converts
all others to PNG. References: PNG specification, third edition, 5.3 and 13; ITU-T T.81, annexes B and G.
"""

import re
import struct
import zlib

PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
CUT_OFF, INCOMPLETE, DAMAGED = "cut off", "incomplete scans", "damaged data"
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type of a PNG -> samples per pixel
# First row and column, and steps, of the passes of an interlaced PNG.
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
PIECE = 2**20  # bytes that are inflated at once
# Frame headers (SOF). The first three are what every JPEG decoder reads.
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
PROCESSES = {
    0xC3: "lossless",
    **dict.fromkeys((0xC5, 0xC6, 0xC7), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), "arithmetic coding"),
}
HUFFMAN_TABLES, SCAN, END = 0xC4, 0xDA, 0xD9
WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
NEXT_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # in the data of a scan
COEFFICIENTS, UNKNOWN = 64, -1


def png_fault(encoded: bytes) -> str:
    """Returns why decoders may differ about a PNG file, for example "wrong checksums"; "" if they do not.

    Raises:
      ValueError: rows are missing, which some decoders leave black.
    """
    faults: set[str] = set()
    data: list[bytes] = []
    expected = 0
    place, kind = len(PNG_MAGIC), b""
    while place + 12 <= len(encoded) and kind != b"IEND":
        (length,) = struct.unpack_from(">I", encoded, place)
        before, kind = kind, encoded[place + 4 : place + 8]
        chunk = encoded[place + 8 : place + 8 + length]
        checksum = encoded[place + 8 + length : place + 12 + length]
        if checksum != struct.pack(">I", zlib.crc32(chunk, zlib.crc32(kind))):
            faults.add("wrong checksums" if len(checksum) == 4 else CUT_OFF)
        if not kind[0] & 0x20 and kind not in CRITICAL:
            faults.add("unknown chunks")
        if kind == b"IHDR":
            expected = _png_size(chunk)
        if kind == b"IDAT":
            if data and before != b"IDAT":
                faults.add("divided data")
            data.append(chunk)
        place += 12 + length
    if kind != b"IEND":
        faults.add(CUT_OFF)
    size, is_whole = _inflated_size(data, expected)
    if size < expected:
        raise ValueError(f"rows are missing: {size:,} of {expected:,} bytes of pixels are there")
    if size > expected or not is_whole:
        faults.add("another length of data")
    return ", ".join(sorted(faults))


def _inflated_size(data: list[bytes], most: int) -> tuple[int, bool]:
    """Returns the size of the inflated data in bytes, and whether the stream has its end and nothing behind it.

    Args:
      data: pieces of a zlib stream.
      most: size above which no more is inflated.
    """
    stream, size = zlib.decompressobj(), 0
    try:
        for piece in data:
            while piece and size <= most:
                size += len(stream.decompress(piece, PIECE))
                piece = stream.unconsumed_tail
    except zlib.error as error:
        raise ValueError(f"the pixels cannot be decompressed ({error})") from None
    return size, stream.eof and not stream.unused_data


def _png_size(header: bytes) -> int:
    """Returns the size of the filtered rows of a PNG in bytes."""
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header[:13])
    bits = depth * SAMPLES.get(colour, 1)
    passes = ADAM7 if interlace else ((0, 0, 1, 1),)
    size = 0
    for row, column, row_step, column_step in passes:
        rows, columns = -(-(height - row) // row_step), -(-(width - column) // column_step)
        if rows > 0 and columns > 0:
            size += rows * (1 + -(-columns * bits // 8))
    return size


def jpeg_fault(encoded: bytes) -> str:
    """Returns why decoders may differ about a JPEG file, for example "lossless"; "" if they do not."""
    place, kind, has_tables = 2, None, False
    accuracy: dict[int, list[int]] = {}  # component -> bits that each coefficient still lacks
    while place + 4 <= len(encoded):
        if encoded[place] != 0xFF:
            return "damaged"
        marker = encoded[place + 1]
        if marker == 0xFF:  # filling
            place += 1
            continue
        if marker == END:
            break
        if marker in WITHOUT_LENGTH:
            place += 2
            continue
        (length,) = struct.unpack_from(">H", encoded, place + 2)
        segment = encoded[place + 4 : place + 2 + length]
        place += 2 + length
        if marker in PROCESSES:
            return PROCESSES[marker]
        if marker in (BASELINE, EXTENDED, PROGRESSIVE):
            if kind is not None or len(segment) < 6 or segment[0] != 8:
                return "several frames" if kind is not None else f"{segment[0] if segment else 0} bits"
            kind = marker
            accuracy = {component: [UNKNOWN] * COEFFICIENTS for component in segment[6::3]}
        has_tables |= marker == HUFFMAN_TABLES
        if marker == SCAN:
            if kind is None or not has_tables or not _enter_scan(accuracy, segment):
                return "damaged"
            end = NEXT_MARKER.search(encoded, place)
            if not end:
                return CUT_OFF
            place = end.start()
    return "" if accuracy and not any(map(any, accuracy.values())) else INCOMPLETE


def end_of_jpeg_data(encoded: bytes) -> int:
    """Returns where the data of the last scan of a JPEG without faults end."""
    place = end = 2
    while place + 4 <= len(encoded) and (marker := encoded[place + 1]) != END:
        if marker == 0xFF:
            place += 1
        elif marker in WITHOUT_LENGTH:
            place += 2
        else:
            place += 2 + struct.unpack_from(">H", encoded, place + 2)[0]
        if marker == SCAN and (data_end := NEXT_MARKER.search(encoded, place)):
            place = end = data_end.start()
    return end


def _enter_scan(accuracy: dict[int, list[int]], header: bytes) -> bool:
    """Enters the coefficients that a scan refines; returns False if its header is invalid."""
    count = header[0] if header else 0
    if len(header) < 2 * count + 4 or not count:
        return False
    first, last, bits = header[2 * count + 1 : 2 * count + 4]
    before, after = bits >> 4 or UNKNOWN, bits & 15
    for component in header[1 : 2 * count + 1 : 2]:
        if component not in accuracy or not first <= last < COEFFICIENTS:
            return False
        bits_of = accuracy[component]
        # A scan that refines what no earlier one began leaves a gap for ever.
        bits_of[first : last + 1] = [after if bits == before else UNKNOWN for bits in bits_of[first : last + 1]]
    return True
