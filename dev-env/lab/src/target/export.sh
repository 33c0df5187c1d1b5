# Runs in the target machine, twice: STEP=record prepares the record of commands, STEP=luns exports.
# Everything is configfs of the kernel's target (Documentation/target); LUNS is "serial=unit ...".
state=/var/lib/lunar/target
core=/sys/kernel/config/target/core
fabric=/sys/kernel/config/target/iscsi
tracing=/sys/kernel/tracing

if [ "$STEP" = record ]; then
    # The kernel keeps reservations below /var/target/pr. The directory has to be there before the
    # first REGISTER with APTPL: without it the command fails, but the key stays.
    mkdir -p "$state/pr"
    # It does not flush what it writes there, so a power cut would take the reservations along: files
    # made here are written through.
    chattr +S "$state/pr"
    ln -sfn "$state" /var/target
    modprobe -a target_core_mod target_core_iblock iscsi_target_mod
    # What changes blocks (6, 10, 12, 16 bytes; same, verify, compare; unmap) and PERSISTENT RESERVE
    # OUT. Switched on before anything runs: see "stale code" in docs/lab.md.
    wanted='opcode == 0x0a || opcode == 0x2a || opcode == 0xaa || opcode == 0x8a || opcode == 0x41'
    wanted="$wanted || opcode == 0x93 || opcode == 0x2e || opcode == 0x8e || opcode == 0x89"
    wanted="$wanted || opcode == 0x42 || opcode == 0x5f"
    echo boot >"$tracing/trace_clock"
    echo 8192 >"$tracing/buffer_size_kb"
    for event in target_sequencer_start target_cmd_complete; do
        echo "$wanted" >"$tracing/events/target/$event/filter"
        echo 1 >"$tracing/events/target/$event/enable"
    done
    exit 0
fi

# Gives the kernel the registrations of an earlier boot: one block of the file, one write.
restore_reservations() { # file attribute
    local line block=
    while IFS= read -r line; do
        case $line in
        PR_REG_START*) block= ;;
        PR_REG_END*) printf '%s' "${block%,}" >"$2" ;;
        *) block+="$line," ;;
        esac
    done <"$1"
}

portal_group=$fabric/$TARGET/tpgt_1
mkdir -p "$portal_group"
echo 0 >"$portal_group/attrib/authentication"
for portal in $PORTALS; do
    mkdir "$portal_group/np/$portal"
done
index=0
for lun in $LUNS; do
    serial=${lun%%=*}
    unit=${lun#*=}
    disk=/dev/disk/by-id/virtio-$serial
    echo "0 $(blockdev --getsz "$disk") linear $disk 0" | dmsetup create "$serial"
    store=$core/iblock_$index/$serial
    mkdir -p "$store"
    echo "udev_path=/dev/mapper/$serial" >"$store/control"
    echo "$unit" >"$store/wwn/vpd_unit_serial"
    echo 1 >"$store/enable"
    # Only before the LUN is exported.
    if [ -s "$state/pr/aptpl_$unit" ]; then
        restore_reservations "$state/pr/aptpl_$unit" "$store/pr/res_aptpl_metadata"
    fi
    mkdir "$portal_group/lun/lun_$index"
    ln -s "$store" "$portal_group/lun/lun_$index/$serial"
    for client in $CLIENTS; do
        mkdir -p "$portal_group/acls/$client/lun_$index"
        ln -s "$portal_group/lun/lun_$index" "$portal_group/acls/$client/lun_$index/$serial"
    done
    index=$((index + 1))
done
echo 1 >"$portal_group/enable"
