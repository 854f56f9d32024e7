# Completion of bartender(1) for bash.  Source it, or put it where bash-completion looks, as "bartender".

_bartender_complete() {
  local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
  local settings='--arena --size --threshold --durability --on-restart --on-exit --on-error --on-misuse --fork --nodes --near --replicas --key-file --seal-key-file --spill-policy --paranoid --log --only'
  COMPREPLY=()

  if ((COMP_CWORD == 1)); then
    mapfile -t COMPREPLY < <(compgen -W 'run ls info salvage check gc rm config doctor node version --help --version' -- "$word")
    return
  fi

  case $previous in
    --on-restart) mapfile -t COMPREPLY < <(compgen -W 'salvage keep discard' -- "$word"); return ;;
    --on-exit) mapfile -t COMPREPLY < <(compgen -W 'discard keep' -- "$word"); return ;;
    --on-error) mapfile -t COMPREPLY < <(compgen -W 'volatile abort' -- "$word"); return ;;
    --on-misuse) mapfile -t COMPREPLY < <(compgen -W 'abort ignore' -- "$word"); return ;;
    --spill-policy) mapfile -t COMPREPLY < <(compgen -W 'all large' -- "$word"); return ;;
    --paranoid) mapfile -t COMPREPLY < <(compgen -W '0 1' -- "$word"); return ;;
    --fork) mapfile -t COMPREPLY < <(compgen -W 'snapshot none' -- "$word"); return ;;
    --log) mapfile -t COMPREPLY < <(compgen -W 'off error info debug' -- "$word"); return ;;
    --durability) mapfile -t COMPREPLY < <(compgen -W 'process lazy strict' -- "$word"); return ;;
    --output | --to | --library | --arena | --key-file | --seal-key-file) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
    --size | --threshold | --nodes | --near | --replicas | --only | --min-size | --id | --length | --limit) return ;;
  esac

  local options='' far='--nodes --key-file --seal-key-file'
  case $command in
    run)
      # After the program's name its own files are as good a guess as any.
      local at=2
      while ((at < COMP_CWORD)); do
        case ${COMP_WORDS[at]} in
          --) ((at += 1)); break ;;
          --json | --dry-run | --help | *=*) ((at += 1)) ;;
          -*) ((at += 2)) ;;
          *) break ;;
        esac
      done
      if ((at < COMP_CWORD)); then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
      elif [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$settings --library --dry-run --json --help --" -- "$word")
      else
        mapfile -t COMPREPLY < <(compgen -c -- "$word")
      fi
      return ;;
    ls) options='--json --help' ;;
    info) options="--json $far --help" ;;
    salvage) options="--json --min-size --limit --id --output --force --strings --length $far --help" ;;
    check) options="--json --repair --to --pointers $far --help" ;;
    gc) options="--json --dry-run $far --help" ;;
    rm) options="--json --force $far --help" ;;
    config) options='--json --markdown --help' ;;
    doctor) options='--json --help' ;;
    node) options='--json --key-file --forget --help' ;;
    version) options='--json --help' ;;
  esac
  if [[ $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
  elif [[ $command == config || $command == version ]]; then
    return
  else
    local directory="/dev/shm/bartender-$(id -u)"
    mapfile -t COMPREPLY < <(compgen -f -- "$word"; [[ -z $word && -d $directory ]] && compgen -f -- "$directory/")
  fi
}

complete -o filenames -F _bartender_complete bartender
