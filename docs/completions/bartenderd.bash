# Completion of bartenderd(1) for bash.  Source it, or put it where bash-completion looks, as "bartenderd".

_bartenderd_complete() {
  local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
  COMPREPLY=()
  case $previous in
    --store | --key-file) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
    --transport) mapfile -t COMPREPLY < <(compgen -W 'auto tcp verbs' -- "$word"); return ;;
    --listen | --capacity | --quota) return ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W '--listen --store --capacity --key-file --transport --quota --allow-any-address --json
    --version --help' -- "$word")
}

complete -o filenames -F _bartenderd_complete bartenderd
