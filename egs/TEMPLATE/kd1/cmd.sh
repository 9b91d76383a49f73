# Sourced by kd.sh: what runs a command. `cmd_backend=slurm ./run.sh ...` uses Slurm; for another scheduler set the three
# variables to any program that is called like Kaldi's run.pl, here or in the environment.
# Reads: cmd_backend train_cmd cuda_cmd decode_cmd
# Sets: train_cmd cuda_cmd decode_cmd
case ${cmd_backend:-local} in
    local)
        train_cmd=${train_cmd:-utils/run.sh}  # statistics
        cuda_cmd=${cuda_cmd:-utils/run.sh}  # training
        decode_cmd=${decode_cmd:-utils/run.sh}
        ;;
    slurm)  # partition, account, ...: SBATCH_PARTITION, SBATCH_ACCOUNT, ... as sbatch reads them
        train_cmd=${train_cmd:-utils/slurm.sh}
        cuda_cmd=${cuda_cmd:-utils/slurm.pl}  # the name by which ESPnet's launcher knows Slurm
        decode_cmd=${decode_cmd:-utils/slurm.sh}
        ;;
    *)
        echo "cmd.sh: error: cmd_backend=${cmd_backend} is neither local nor slurm" >&2
        exit 2
        ;;
esac
