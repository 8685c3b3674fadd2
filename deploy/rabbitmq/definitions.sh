#!/bin/sh
# Prints RabbitMQ's definitions: the administrator, and the services' users with what the file `users` lets them do.
# definitions.sh SECRETS ADMINISTRATOR [VHOST [QUEUE_NAME]]: SECRETS is the folder of the passwords.
set -eu
secrets=$1 administrator=$2 vhost=${3:-/} queue=${4:-sms_queue}

json() { sed 's/[\\"]/\\&/g'; } # a string's characters within quotes

add() { # NAME SECRET TAGS CONFIGURE WRITE READ
    password=$(json <"$secrets/$2")
    users="$users${users:+,}
    {\"name\": \"$1\", \"password\": \"$password\", \"tags\": \"$3\"}"
    permissions="$permissions${permissions:+,}
    {\"user\": \"$1\", \"vhost\": \"$vhost\", \"configure\": \"$4\", \"write\": \"$5\", \"read\": \"$6\"}"
}

vhost=$(printf %s "$vhost" | json) queue=$(printf %s "$queue" | sed 's/[.]/[.]/g') users='' permissions=''
add "$administrator" rabbitmq_password administrator '.*' '.*' '.*'
while read -r name configure write read; do
    add "$name" "${name}_password" '' "$configure" "$write" "$read"
done <<END
$(sed -e '/^#/d' -e "s/sms_queue/$queue/g" "$(dirname "$0")/users")
END
cat <<END
{
  "vhosts": [{"name": "$vhost"}],
  "users": [$users
  ],
  "permissions": [$permissions
  ]
}
END
