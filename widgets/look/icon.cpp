#include "look/icon.h"

#include "look/theme.h"

#include <QFile>
#include <QHash>
#include <QIconEngine>
#include <QPainter>
#include <QPainterPath>
#include <QPixmapCache>
#include <QSvgRenderer>

// A static library's resources are linked in only when asked for.
static void loadIconResource()
{
    static const bool done = [] {
        Q_INIT_RESOURCE(icons);
        return true;
    }();
    (void)done;
}

namespace espalier
{

namespace
{

QByteArray svgOf(const QString& name)
{
    loadIconResource();
    static QHash<QString, QByteArray> cache;
    const auto found = cache.constFind(name);
    if (found != cache.constEnd()) return *found;
    QFile file(QStringLiteral(":/icons/") + name + QStringLiteral(".svg"));
    QByteArray svg;
    if (file.open(QIODevice::ReadOnly)) {
        svg = file.readAll();
        svg.replace("stroke-width=\"2\"", "stroke-width=\"1.75\"");
    }
    cache.insert(name, svg);
    return svg;
}

class LucideEngine final : public QIconEngine
{
public:
    LucideEngine(QString name, QString role) : m_name(std::move(name)), m_role(std::move(role)) {}

    void paint(QPainter* painter, const QRect& rect, QIcon::Mode mode, QIcon::State state) override
    {
        paintIcon(painter, m_name, colour(mode, state), rect);
    }
    QPixmap pixmap(const QSize& size, QIcon::Mode mode, QIcon::State state) override
    {
        return iconPixmap(m_name, colour(mode, state), std::min(size.width(), size.height()), 1.0);
    }
    QPixmap scaledPixmap(const QSize& size, QIcon::Mode mode, QIcon::State state, qreal scale) override
    {
        // `size` is in device pixels here.
        QPixmap result = iconPixmap(m_name, colour(mode, state), std::min(size.width(), size.height()), 1.0);
        result.setDevicePixelRatio(scale);
        return result;
    }
    QIconEngine* clone() const override { return new LucideEngine(m_name, m_role); }
    bool isNull() override { return svgOf(m_name).isEmpty(); }

private:
    QColor colour(QIcon::Mode mode, QIcon::State state) const
    {
        if (mode == QIcon::Disabled) return theme().disabled;
        if (!m_role.isEmpty()) return theme().role(m_role);
        return state == QIcon::On ? theme().accent : theme().text;
    }
    QString m_name;
    QString m_role;
};

}  // namespace

bool hasIcon(const QString& name) { return !svgOf(name).isEmpty(); }

QIcon icon(const QString& name, const QString& role)
{
    if (!hasIcon(name)) return {};
    return QIcon(new LucideEngine(name, role));
}

QPixmap iconPixmap(const QString& name, const QColor& colour, int size, qreal pixelRatio)
{
    const int pixels = std::max(1, qRound(size * pixelRatio));
    const QString key = QStringLiteral("espalier:%1:%2:%3").arg(name, colour.name(QColor::HexArgb)).arg(pixels);
    QPixmap pixmap;
    if (!QPixmapCache::find(key, &pixmap)) {
        pixmap = QPixmap(pixels, pixels);
        pixmap.fill(Qt::transparent);
        QPainter painter(&pixmap);
        paintIcon(&painter, name, colour, QRectF(0, 0, pixels, pixels));
        painter.end();
        QPixmapCache::insert(key, pixmap);
    }
    pixmap.setDevicePixelRatio(pixelRatio);
    return pixmap;
}

void paintIcon(QPainter* painter, const QString& name, const QColor& colour, const QRectF& square)
{
    QByteArray svg = svgOf(name);
    if (svg.isEmpty()) return;
    svg.replace("currentColor", colour.name().toLatin1());
    QSvgRenderer renderer(svg);
    painter->save();
    painter->setRenderHint(QPainter::Antialiasing);
    const double side = std::min(square.width(), square.height());
    const QPointF corner = square.center() - QPointF(side / 2, side / 2);
    renderer.render(painter, QRectF(corner, QSizeF(side, side)));
    painter->restore();
}

void paintSign(QPainter* painter, const QColor& colour, const QRectF& square)
{
    painter->save();
    painter->setRenderHint(QPainter::Antialiasing);
    const double s = std::min(square.width(), square.height()) / 24.0;
    painter->translate(square.center() - QPointF(12 * s, 12 * s));
    painter->scale(s, s);
    painter->setPen(QPen(colour, 2.0, Qt::SolidLine, Qt::RoundCap, Qt::RoundJoin));
    painter->setBrush(Qt::NoBrush);
    painter->drawLine(QPointF(12, 2), QPointF(12, 22));
    const auto arm = [painter](double x, double y, double top) {
        QPainterPath path(QPointF(12, y));
        const double side = x < 12 ? -1 : 1;
        path.lineTo(x - side * 3, y);
        path.quadTo(x, y, x, y - 3);
        path.lineTo(x, top);
        painter->drawPath(path);
    };
    arm(7.5, 12, 4);
    arm(16.5, 12, 4);
    arm(3, 18, 4);
    arm(21, 18, 4);
    painter->restore();
}

}  // namespace espalier
