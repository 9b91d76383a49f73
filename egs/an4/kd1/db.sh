# Sourced by kd.sh: options of this recipe in addition to those of kd.sh; they are exported to local/data.sh.
# shellcheck disable=SC2034
# options
# AN4
an4=https://huggingface.co/datasets/espnet/an4/resolve/main/an4_sphere.tar.gz  # directory, tarball or URL of the corpus
an4_labelled=               # 20 adds the sets train_20 (a fifth of the training utterances) and train_rest_80 (the others)
an4_folds=                  # 5 adds speaker-disjoint folds of all utterances for cross-validation: train_fold1, dev_fold1,
                            # test_fold1 to train_fold5, dev_fold5, test_fold5; give each fold a --lang of its own
# end of options
