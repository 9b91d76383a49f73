# Sourced by kd.sh: what runs a command. `cmd_backend=slurm ./run.sh ...` uses Slurm, by conf/slurm.conf; sge, pbs and ssh use
# queue.pl, pbs.pl and ssh.pl of a Kaldi or ESPnet checkout, which KALDI_ROOT, ESPNET_ROOT or the PATH has. For another
# scheduler set the three variables to any program that is called like Kaldi's run.pl, here or in the environment.
# Reads: cmd_backend train_cmd cuda_cmd decode_cmd kd_root KALDI_ROOT ESPNET_ROOT
# Sets: train_cmd cuda_cmd decode_cmd
# shellcheck disable=SC2154

# kept_runner PROGRAM [CONFIGURATION]: print the command of a runner that Kaldi keeps, with the recipe's configuration or ours.
kept_runner() {
    local folder found config
    found=$(command -v "$1") || for folder in ${KALDI_ROOT:+"${KALDI_ROOT}/egs/wsj/s5"} \
        ${ESPNET_ROOT:+"${ESPNET_ROOT}/egs2/TEMPLATE/asr1" "${ESPNET_ROOT}/tools/kaldi/egs/wsj/s5"}; do
        for found in "${folder}/utils/$1" "${folder}/utils/parallel/$1" ''; do
            [ ! -x "${found}" ] || break 2
        done
    done
    if [ -z "${found}" ]; then
        echo "cmd.sh: error: cmd_backend=${cmd_backend} needs $1 of Kaldi: set KALDI_ROOT or ESPNET_ROOT to a checkout" \
            "that has it, or add its folder to the PATH" >&2
        return 2
    fi
    [ -z "${2-}" ] || { config=conf/$2; [ -e "${config}" ] || config=${kd_root}/egs/TEMPLATE/kd1/${config}; }
    echo "${found}${config:+ --config ${config}}"
}

case ${cmd_backend:-local} in
    local)
        train_cmd=${train_cmd:-utils/run.sh}  # data, tokens, statistics
        cuda_cmd=${cuda_cmd:-utils/run.sh}  # training, and decoding on GPUs
        decode_cmd=${decode_cmd:-utils/run.sh}
        ;;
    slurm)
        train_cmd=${train_cmd:-utils/slurm.sh --kind train}
        cuda_cmd=${cuda_cmd:-utils/slurm.pl --kind cuda}  # the name by which ESPnet's launcher knows Slurm
        decode_cmd=${decode_cmd:-utils/slurm.sh --kind decode}
        ;;
    sge | pbs | ssh)
        case ${cmd_backend} in
            sge) runner=$(kept_runner queue.pl queue.conf) || exit ;;
            pbs) runner=$(kept_runner pbs.pl pbs.conf) || exit ;;
            ssh) runner=$(kept_runner ssh.pl) || exit ;;
        esac
        train_cmd=${train_cmd:-${runner}}
        cuda_cmd=${cuda_cmd:-${runner}}
        decode_cmd=${decode_cmd:-${runner}}
        ;;
    *)
        echo "cmd.sh: error: cmd_backend=${cmd_backend} is not local, slurm, sge, pbs or ssh" >&2
        exit 2
        ;;
esac
