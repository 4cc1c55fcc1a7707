#!/bin/bash
# Writes docs/test-vectors.json to stdout: what swarmnet derives, seals and signs, made without any of its code.
#
#     bash docs/test-vectors.sh > docs/test-vectors.json
#
# HKDF, scrypt, SHA-256, Ed25519 and AES in counter mode are `openssl`'s; GHASH (NIST SP 800-38D), which `openssl enc`
# has not, and base 36 are bash arithmetic; CRC-32 is gzip's. First each of them has to give what the RFCs and the
# papers say; else this ends with status 1. docs/test-vectors.md explains every construction.
set -eu -o pipefail
LC_ALL=C
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# --- bytes are written in hexadecimal everywhere

hex() { od -An -v -tx1 | tr -d ' \n'; }
raw() { printf '%b' "$(sed 's/../\\x&/g' <<<"$1")"; }
text() { printf '%s' "$1" | hex; }
number() { printf "%0$((2 * $2))x" "$1"; }                       # value, bytes; big-endian
little() { number "$1" "$2" | fold -w 2 | tac | tr -d '\n'; }
bytes() { echo $((${#1} / 2)); }
counted() { number "$(bytes "$1")" 2; printf '%s' "$1"; }        # its length (u16) before it
sequence() { local i; for ((i = $1; i < $1 + $2; i++)); do printf '%02x' $((i & 255)); done; }   # first, how many

# --- primitives

sha256() { raw "$1" | openssl dgst -sha256 -binary | hex; }

hkdf() {                                                         # secret, salt or '', info, bytes
  local options=(-kdfopt digest:SHA256 -kdfopt "hexkey:$1")
  [ -z "$2" ] || options+=(-kdfopt "hexsalt:$2")
  [ -z "$3" ] || options+=(-kdfopt "hexinfo:$3")
  openssl kdf -binary -keylen "$4" "${options[@]}" HKDF | hex
}

scrypt() {                                                       # passphrase, salt, N, r, p, bytes
  openssl kdf -binary -keylen "$6" -kdfopt "hexpass:$1" -kdfopt "hexsalt:$2" -kdfopt "n:$3" -kdfopt "r:$4" \
    -kdfopt "p:$5" -kdfopt maxmem_bytes:300000000 SCRYPT | hex
}

crc32() { little "0x$(raw "$1" | gzip -c | tail -c 8 | head -c 4 | hex)" 4; }   # big-endian

aes_block() { raw "$2" | openssl enc -aes-256-ecb -K "$1" -nopad | hex; }
aes_ctr() { raw "$3" | openssl enc -aes-256-ctr -K "$1" -iv "$2" | hex; }       # key, first counter block, data

padded() {                                                       # to whole blocks, with zeros
  printf '%s' "$1"
  local over=$((${#1} % 32))
  ((over == 0)) || printf '%*s' $((32 - over)) '' | tr ' ' 0
}

# GHASH: blocks as polynomials over GF(2), the leftmost bit that of x^0, modulo x^128 + x^7 + x^2 + x + 1.
ghash() {                                                        # H, data of whole blocks
  local h=$1 data=$2 at bit word carry
  local y0=0 y1=0 y2=0 y3=0 z0 z1 z2 z3 v0 v1 v2 v3
  for ((at = 0; at < ${#data}; at += 32)); do
    ((y0 ^= 0x${data:at:8}, y1 ^= 0x${data:at+8:8}, y2 ^= 0x${data:at+16:8}, y3 ^= 0x${data:at+24:8}, 1))
    ((z0 = z1 = z2 = z3 = 0, v0 = 0x${h:0:8}, v1 = 0x${h:8:8}, v2 = 0x${h:16:8}, v3 = 0x${h:24:8}, 1))
    for word in $y0 $y1 $y2 $y3; do
      for ((bit = 31; bit >= 0; bit--)); do
        if ((word >> bit & 1)); then ((z0 ^= v0, z1 ^= v1, z2 ^= v2, z3 ^= v3, 1)); fi
        ((carry = v3 & 1, v3 = v3 >> 1 | (v2 & 1) << 31, v2 = v2 >> 1 | (v1 & 1) << 31, 1))
        ((v1 = v1 >> 1 | (v0 & 1) << 31, v0 = v0 >> 1 ^ carry * 0xe1000000, 1))
      done
    done
    ((y0 = z0, y1 = z1, y2 = z2, y3 = z3, 1))
  done
  printf '%08x%08x%08x%08x' "$y0" "$y1" "$y2" "$y3"
}

gcm_tag() {                                                      # key, associated data, ciphertext, E(J0)
  local lengths tag out='' i
  lengths=$(number $(($(bytes "$2") * 8)) 8)$(number $(($(bytes "$3") * 8)) 8)
  tag=$(ghash "$(aes_block "$1" "$(number 0 16)")" "$(padded "$2")$(padded "$3")$lengths")
  for i in 0 8 16 24; do out+=$(printf '%08x' $((0x${tag:i:8} ^ 0x${4:i:8}))); done
  printf '%s' "$out"
}

gcm_seal() {                                                     # key, nonce (12 bytes), plaintext, associated data
  local stream
  stream=$(aes_ctr "$1" "${2}00000001" "$(number 0 16)$3")       # a block of zeros first gives E(J0)
  printf '%s' "${stream:32}"
  gcm_tag "$1" "$4" "${stream:32}" "${stream:0:32}"
}

gcm_open() {                                                     # key, nonce, ciphertext and tag, associated data
  local ciphertext=${3:0:-32} stream
  stream=$(aes_ctr "$1" "${2}00000001" "$(number 0 16)$ciphertext")
  [ "$(gcm_tag "$1" "$4" "$ciphertext" "${stream:0:32}")" = "${3: -32}" ] || { echo 'wrong tag' >&2; exit 1; }
  printf '%s' "${stream:32}"
}

ed25519_key() { raw "302e020100300506032b657004220420$1" >"$work/key"; }
ed25519_public() { ed25519_key "$1"; openssl pkey -inform DER -in "$work/key" -pubout -outform DER | tail -c 32 | hex; }
ed25519_sign() {                                                 # private key, message
  ed25519_key "$1"
  raw "$2" >"$work/message"
  openssl pkeyutl -sign -rawin -in "$work/message" -inkey "$work/key" -keyform DER | hex
}

x25519_public() {                                                # private key
  raw "302e020100300506032b656e04220420$1" >"$work/x-$1"
  openssl pkey -inform DER -in "$work/x-$1" -pubout -outform DER | tail -c 32 | hex
}
x25519() {                                                       # private key, the other's public key
  raw "302e020100300506032b656e04220420$1" >"$work/mine"
  raw "302a300506032b656e032100$2" >"$work/theirs"
  openssl pkeyutl -derive -inkey "$work/mine" -keyform DER -peerkey "$work/theirs" -peerform DER | hex
}

base36() {                                                       # bytes as a big-endian number, digits
  local digits=0123456789abcdefghijklmnopqrstuvwxyz number=$1 out='' quotient remainder digit i
  while ((${#out} < $2)); do
    quotient='' remainder=0
    for ((i = 0; i < ${#number}; i++)); do
      ((remainder = remainder * 16 + 0x${number:i:1}, 1))
      printf -v digit '%x' $((remainder / 36))
      quotient+=$digit
      ((remainder %= 36, 1))
    done
    number=$quotient out=${digits:remainder:1}$out
  done
  printf '%s' "$out"
}

# --- output: an array of cases, each a flat object of strings and numbers

cases=0
case_() {                                                        # name, then key=value pairs
  ((cases++ == 0)) || printf ',\n'
  printf ' {"case": "%s"' "$1"
  shift
  local pair
  for pair; do
    if [[ $pair == @(epoch|network_index|node_index|counter|n|r|p)=* ]]; then
      printf ',\n  "%s": %s' "${pair%%=*}" "${pair#*=}"
    else
      printf ',\n  "%s": "%s"' "${pair%%=*}" "${pair#*=}"
    fi
  done
  printf '}'
}

published() {                                                    # what, ours, theirs
  [ "$2" = "$3" ] || { printf '%s: made %s, published %s\n' "$1" "$2" "$3" >&2; exit 1; }
}

echo '['

# --- what others have published, held against the primitives above

ikm=$(printf '0b%.0s' {1..22})
okm=3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865
published 'RFC 5869 A.1' "$(hkdf "$ikm" "$(sequence 0 13)" "$(sequence 0xf0 10)" 42)" "$okm"
case_ 'RFC 5869, A.1' "secret=$ikm" "salt=$(sequence 0 13)" "info=$(sequence 0xf0 10)" "out=$okm"
okm=8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8
published 'RFC 5869 A.3' "$(hkdf "$ikm" '' '' 42)" "$okm"
case_ 'RFC 5869, A.3' "secret=$ikm" 'salt=' 'info=' "out=$okm"

key=feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308
nonce=cafebabefacedbaddecaf888
aad=feedfacedeadbeeffeedfacedeadbeefabaddad2
plain=d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
plain+=1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39
sealed=522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
sealed+=8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b
published 'GCM test case 16' "$(gcm_seal $key $nonce $plain $aad)" $sealed
case_ 'McGrew and Viega, GCM test case 16' "key=$key" "nonce=$nonce" "plaintext=$plain" "context=$aad" "sealed=$sealed"

key=4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb
public=3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c
signature=92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da
signature+=085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00
published 'RFC 8032 7.1, test 2' "$(ed25519_public $key) $(ed25519_sign $key 72)" "$public $signature"
case_ 'RFC 8032, 7.1, test 2' "private=$key" "public=$public" 'message=72' "signature=$signature"

pass=$(text pleaseletmein) salt=$(text SodiumChloride)
out=7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2
out+=d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887
published 'RFC 7914 12' "$(scrypt "$pass" "$salt" 16384 8 1 64)" $out
case_ 'RFC 7914, 12' "passphrase=$pass" "salt=$salt" n=16384 r=8 p=1 "out=$out"

# --- identifiers and join tokens

network=$(base36 "$(sequence 16 16)" 25) source=$(base36 "$(sequence 32 16)" 25)
destination=$(base36 "$(sequence 48 16)" 25) task=$(base36 "$(sequence 64 16)" 25)
case_ 'id' "random=$(sequence 16 16)" "id=$network"
case_ 'id' "random=$(printf 'ff%.0s' {1..16})" "id=$(base36 "$(printf 'ff%.0s' {1..16})" 25)"

root=308201a130820147a00302010202142615d179f7a99ef5b3b3b8bc50f59cdece7f7747300a06082a8648ce3d040302302631
root+=0e300c060355040a0c05737761726d3114301206035504030c0b737761726d6e65742d6361301e170d323631313235313730
root+=3733355a170d3436313132303137303733355a3026310e300c060355040a0c05737761726d3114301206035504030c0b7377
root+=61726d6e65742d63613059301306072a8648ce3d020106082a8648ce3d03010703420004e2ddb795f0cea127e925c03d672a
root+=b6bd43087e8edce77ff30c3bb34e6777f8c23befe3df27393fd84687c5265ca16b5a8d4a5fc134e58c9c30e219e0b0cf611c
root+=a3533051301d0603551d0e04160414c5e47d06d6607c9fd131182a0835365b4bfde164301f0603551d23041830168014c5e4
root+=7d06d6607c9fd131182a0835365b4bfde164300f0603551d130101ff040530030101ff300a06082a8648ce3d040302034800
root+=30450221009cdb5402b5fd59a4cbc61219433985783c5875592076ebd4c02aa04b7c2709d70220487802eb5740608908d6c9
root+=f482a802773091c63e867b5f2216fdc075f73a1876
digest=$(base36 "$(sha256 "$root")" 50)
case_ 'join token' "root_der=$root" "digest=$digest" "secret=$(sequence 0xe0 16)" \
  "token=SWMTKN-1-$digest-$(base36 "$(sequence 0xe0 16)" 25)"

# --- keys of an epoch

secret=$(sequence 0 32)
expand() {                                                       # secret, label, bytes, scope, epoch, node ids
  local secret=$1 info length=$3 part
  info=$(text "$2")$(number "$5" 8)
  for part in "$4" "${@:6}"; do info+=$(counted "$(text "$part")"); done
  hkdf "$secret" '' "$info" "$length"
}
esp() { expand "$1" 'swarmnet/1 esp' 36 "${@:2}"; }             # secret, scope, epoch, source, destination
gossip() { expand "$1" 'swarmnet/1 gossip' 32 "${@:2}"; }       # secret, scope, epoch, sender
for epoch in 1 17; do
  for pair in "$source $destination" "$destination $source"; do
    read -r from to <<<"$pair"
    out=$(esp "$secret" "$network" $epoch "$from" "$to")
    case_ 'esp key' "secret=$secret" "scope=$network" "epoch=$epoch" "source=$from" "destination=$to" \
      "key=${out:0:64}" "salt=${out:64}"
  done
done
for scope in gossip "$network"; do
  out=$(gossip "$secret" "$scope" 17 "$source")
  case_ 'gossip key' "secret=$secret" "scope=$scope" epoch=17 "sender=$source" "key=$out"
done
for place in '1 258 17' '1 0 1' '4095 65535 15' '2748 4660 4294967296'; do
  read -r net node epoch <<<"$place"
  out=$(number $((net << 20 | node << 4 | epoch % 16)) 4)
  case_ 'spi' "network_index=$net" "node_index=$node" "epoch=$epoch" "spi=$out"
done

# A packet that a Linux 6.1 kernel sent under the first key of epoch 17 above, with extended sequence numbers, caught
# on the wire: key and salt as `ip xfrm state add … aead 'rfc4106(gcm(aes))' 0x<key><salt> 128 flag esn` takes them.
packet=00101021000000010addd05cebe8190d599cb24e5df54ea5da22a4d4fc88053c6c2dcc2c70f3c4073b4c78b416eef7047ffe4bad4dc0bb
packet+=7291c7c44d621491e5
out=$(esp "$secret" "$network" 17 "$source" "$destination")
opened=$(gcm_open "${out:0:64}" "${out:64}${packet:16:16}" "${packet:32}" "${packet:0:8}00000000${packet:8:8}")
[ "${opened:16:44}" = "$(text 'swarmnet test vector 1')" ] || { echo 'the packet opens to something else' >&2; exit 1; }
case_ 'esp packet of Linux 6.1' "key=${out:0:64}" "salt=${out:64}" "packet=$packet" \
  "nonce=${out:64}${packet:16:16}" "context=${packet:0:8}00000000${packet:8:8}" "plaintext=$opened"

# --- sealed gossip

for scope in gossip "$network"; do
  tag=$(sha256 "$(text "swarmnet/1 scope$scope")")
  from=$(sha256 "$(text "swarmnet/1 sender$source")") to=$(sha256 "$(text "swarmnet/1 sender$destination")")
  body=$(text 'any body') nonce=$(number 0xb0075eed 4)$(number 4711 8)
  header=11$(number 17 1)${tag:0:12}${from:0:16}$nonce
  sealed=$(gcm_seal "$(gossip "$secret" "$scope" 17 "$source")" "$nonce" "$body" "$header${to:0:16}0badb007")
  case_ 'gossip datagram' "secret=$secret" "scope=$scope" "scope_tag=${tag:0:12}" epoch=17 "sender=$source" \
    boot=b0075eed counter=4711 "receiver=$destination" receiver_boot=0badb007 "nonce=$nonce" "body=$body" \
    "message=$header$sealed"
done

# --- keys on their way to a worker

worker=$(sequence 0x30 32) manager=$(sequence 0x50 32)
workers_public=$(x25519_public "$worker") managers_public=$(x25519_public "$manager")
shared=$(x25519 "$worker" "$managers_public")
published 'the other end of X25519' "$shared" "$(x25519 "$manager" "$workers_public")"
link=$shared$workers_public$managers_public
for place in 1 2; do
  out=$(hkdf "$link" '' "$(text 'swarmnet/1 key chain')" 64)
  plain=$(text "message $place")
  case_ 'key chain' "worker_private=$worker" "worker_public=$workers_public" "manager_private=$manager" \
    "manager_public=$managers_public" "n=$place" "key=${out:0:64}" "plaintext=$plain" \
    "sealed=$(gcm_seal "${out:0:64}" "$(number 0 12)" "$plain" '')"
  link=${out:64}
done

# --- endpoints

private=$(sequence 0x40 32)
for place in '10.0.1.3 0a000103 02420a000103' 'fd00::1:3 fd000000000000000000000000010003 024200010003'; do
  read -r ip packed mac <<<"$place"
  message=$(text 'swarmnet/1 endpoint')
  for part in "$(text "$network")" "$(text "$task")" "$packed" "$mac" "$(text "$source")"; do
    message+=$(counted "$part")
  done
  case_ 'endpoint signature' "private=$private" "public=$(ed25519_public "$private")" "network=$network" "task=$task" \
    "ip=$ip" "mac=$(sed 's/../&:/g; s/:$//' <<<"$mac")" "node=$source" "message=$message" \
    "signature=$(ed25519_sign "$private" "$message")"
done

# Three that were placed together: of the first two and then the third.
short() { sha256 "$1" | cut -c 1-40; }                           # the first 20 bytes
leaf() {                                                         # the last byte of the IP
  local message part
  message=$(text 'swarmnet/1 endpoint')
  for part in "$(text "$network")" "$(text "$task")" "0a0001$(number "$1" 1)" "02420a0001$(number "$1" 1)" "$(text "$source")"; do
    message+=$(counted "$part")
  done
  short "00$message"
}
pair=$(short "01$(leaf 3)$(leaf 4)")
root=$(short "01$pair$(leaf 5)")
ed25519=$(ed25519_sign "$private" "$(text 'swarmnet/1 batch of endpoints')$root")
case_ 'endpoint batch' "private=$private" "public=$(ed25519_public "$private")" "network=$network" "task=$task" "node=$source" \
  "root=$root" ips='10.0.1.3 10.0.1.4 10.0.1.5' \
  "signatures=${ed25519}00$(leaf 4)$(leaf 5) ${ed25519}01$(leaf 3)$(leaf 5) ${ed25519}01$pair"

# --- what a manager has on disk

kek=$(sequence 0x60 32) unlock=$(sequence 0x40 32) nonce=$(sequence 0xc0 12)
keks=0a20$kek                                                     # {keys: [KEK]}
sealed=$nonce$(gcm_seal "$unlock" "$nonce" "$keks" "$(text 'swarmnet key-encryption keys 1 ')$(little 3 8)")
case_ 'key file' "kek=$kek" "unlock_key=$unlock" "nonce=$nonce" generation=3 \
  "unlock_key_text=SWMKEY-1-$(raw "$unlock" | base64 -w 0 | tr -d =)" \
  "open=08031a$(number "$(bytes "$keks")" 1)$keks" "locked=080310011a$(number "$(bytes "$sealed")" 1)$sealed"
pem=$(text $'-----BEGIN PRIVATE KEY-----\n')
case_ 'private key file' "kek=$kek" "nonce=$nonce" "pem=$pem" \
  "file=$nonce$(gcm_seal "$kek" "$nonce" "$pem" "$(text 'swarmnet private key 1')")"

data_key=$(sequence 0x80 32)
keys=0a26080710091a20$data_key                                    # one key: {number 7, made at entry 9, secret}
sealed=$nonce$(gcm_seal "$kek" "$nonce" "$keys" "$(text 'swarmnet raft data keys 2')")
case_ 'data key file' "kek=$kek" "nonce=$nonce" "data_key=$data_key" number=7 made_at=9 \
  "file=$(text 'swarmnet keys 2')0a$(little "0x$(crc32 "$sealed")" 4)$sealed"

file_id=$(sequence 0xa0 16)
header=$(text 'swarmnet raft 3')0a$file_id$(little 1 8)$(little 1 8)$(little 7 8)
segment=$header
bodies=(08013200 0801180222090a07080210011a0101)   # {term 1, start {}}, {term 1, commit 2, an entry: a no-op}
for place in 0 1; do
  fresh=$(sequence $((0xc0 + 12 * place)) 12)
  sealed=$fresh$(gcm_seal "$data_key" "$fresh" "${bodies[place]}" "$header$(little "$place" 8)")
  length=$(little "$(bytes "$sealed")" 4)
  segment+=f0534e46$length$(little "0x$(crc32 "$length$sealed")" 4)$sealed
done
case_ 'journal segment' "data_key=$data_key" "file_id=$file_id" \
  "body_0=${bodies[0]}" "body_1=${bodies[1]}" "segment=${segment}0000000000000000"

snapshot=0a0508011a01011207080210011a0101                        # {previous {1, no-op}, last {2, term 1, no-op}}
case_ 'snapshot file' "data_key=$data_key" "nonce=$nonce" "snapshot=$snapshot" \
  "file=$(little 7 8)$nonce$(gcm_seal "$data_key" "$nonce" "$snapshot" "$(text 'swarmnet raft snapshot 2')$(little 7 8)")"

# --- a backup

recovery=SWMREC-1-$(base36 "$(sequence 0x10 32)" 50)
case_ 'recovery key' "random=$(sequence 0x10 32)" "recovery_key=$recovery"
salt=$(sequence 0x20 32)
key=$(scrypt "$(text "$recovery")" "$salt" 131072 8 1 32)
check=$(hkdf "$key" '' "$(text 'swarmnet/1 backup check')" 16)
head=0a$(number ${#network} 1)$(text "$network")1220${salt}182a2a$(number 5 1)$(text 0.1.0)3210$check
start=$(text 'swarmnet backup')0a$(number 1 4)$(number "$(bytes "$head")" 4)$head
state=082a
sealed=$(gcm_seal "$(hkdf "$key" '' "$(text 'swarmnet/1 backup seal')" 32)" "$(number 0 11)01" $state "$start")
case_ 'backup file' "passphrase=$(text "$recovery")" "salt=$salt" "key=$key" "key_check=$check" "state=$state" \
  "file=$start$(number "$(bytes "$sealed")" 4)$sealed"

printf '\n]\n'
