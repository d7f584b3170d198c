#include "look/plurals.h"

namespace espalier
{

QString EnglishPlurals::translate(const char*, const char* sourceText, const char*, int n) const
{
    if (n < 0 || sourceText == nullptr) return {};
    QString text = QString::fromUtf8(sourceText);
    if (!text.contains(QLatin1String("(s)")) && !text.contains(QLatin1String("(ies)"))) return {};
    if (n == 1)
        text.remove(QStringLiteral("(s)")).remove(QStringLiteral("(ies)"));
    else
        text.replace(QStringLiteral("(s)"), QStringLiteral("s")).replace(QStringLiteral("y(ies)"), QStringLiteral("ies"));
    return text;
}

}  // namespace espalier
